"""Figures of a report's folder, as the page embeds them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from soarbench.report.page.svg import inline_svg
from soarbench.report.page.tables import DataTable, data_table
from soarbench.report.report import FigureEntry

#: Of one figure and of all of them, in bytes of their files.
MOST_FIGURE_BYTES, MOST_FIGURES_BYTES = 1_500_000, 6_000_000
MOST_DATA_ROWS = 200


def figures(entries: Sequence[FigureEntry], folder: Path) -> list[dict[str, object]]:
    """Every figure of a folder: as SVG, else a PNG's data URI; a title, a text, and its data."""
    shown: list[dict[str, object]] = []
    total = 0
    for index, entry in enumerate(entries):
        path = _picture([folder / name for name in entry.files])
        size = path.stat().st_size
        alt = f"Figure: {entry.title}. Its numbers follow as a table."
        figure: dict[str, object] = {"source": "", "svg": ""}
        # A page of many megabytes is slow to open and is refused by mail.
        if size <= MOST_FIGURE_BYTES and total + size <= MOST_FIGURES_BYTES:
            total += size
            if path.suffix == ".svg":
                text = path.read_text(encoding="utf-8")
                figure["svg"] = inline_svg(text, prefix=f"f{index}-", label=alt)
            else:
                content = base64.b64encode(path.read_bytes()).decode()
                figure["source"] = f"data:image/png;base64,{content}"
        shown.append({
            **figure, "name": path.name, "title": entry.title, "caption": entry.caption,
            "alt": alt, "data": _data(folder / entry.data, entry.title),
        })  # fmt: skip
    return shown


def _picture(paths: Sequence[Path]) -> Path:
    """The SVG file, whose values can be read under the pointer; the PNG where that is too large."""
    picture = {path.suffix: path for path in paths}
    svg = picture.get(".svg")
    return svg if svg and svg.stat().st_size <= MOST_FIGURE_BYTES else picture[".png"]


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
