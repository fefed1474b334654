"""Figures of a report's folder, as the page embeds them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from soarbench.report.page.tables import DataTable, data_table
from soarbench.report.report import FigureEntry

#: Of one figure and of all of them, in bytes of their files.
MOST_FIGURE_BYTES, MOST_FIGURES_BYTES = 1_500_000, 6_000_000
MOST_DATA_ROWS = 200
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def figures(entries: Sequence[FigureEntry], folder: Path) -> list[dict[str, object]]:
    """Every figure of a folder: its smallest file as a data URI, a title, a text, and its data."""
    shown: list[dict[str, object]] = []
    total = 0
    for entry in entries:
        paths = [folder / name for name in entry.files if Path(name).suffix in _TYPES]
        # A few lines are smallest as SVG, thousands of points as PNG.
        path = min(paths, key=lambda path: path.stat().st_size)
        size = path.stat().st_size
        source = ""
        # A page of many megabytes is slow to open and is refused by mail.
        if size <= MOST_FIGURE_BYTES and total + size <= MOST_FIGURES_BYTES:
            total += size
            content = base64.b64encode(path.read_bytes()).decode()
            source = f"data:{_TYPES[path.suffix]};base64,{content}"
        shown.append({
            "name": path.name, "title": entry.title, "caption": entry.caption, "source": source,
            "alt": f"Figure: {entry.title}. Its numbers follow as a table.",
            "data": _data(folder / entry.data, entry.title),
        })  # fmt: skip
    return shown


def _data(path: Path, title: str) -> DataTable:
    # As texts: a step must stay 40 beside a missing one, and not become 40.0.
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, nrows=MOST_DATA_ROWS + 1)
    more = f", the first {MOST_DATA_ROWS} rows" if len(frame) > MOST_DATA_ROWS else ""
    numeric = [frame[name].map(_is_number).all() for name in frame]
    texts = numeric.index(True) if True in numeric else len(numeric)
    caption = f"{title}{more} ({path.name})"
    return data_table(caption, frame.head(MOST_DATA_ROWS).map(_short), texts=texts)


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return f"{float(text):.6g}" if "." in text and _is_number(text) else text
