"""Figures of a report's folder, as the page embeds them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from soarbench.common.files import read_json
from soarbench.report.figures.figure_set import INDEX
from soarbench.report.page.tables import DataTable, data_table
from soarbench.report.text.words import COUNTER_TITLES

#: Of one figure and of all of them, in bytes of their files.
MOST_FIGURE_BYTES, MOST_FIGURES_BYTES = 1_500_000, 6_000_000
MOST_DATA_ROWS = 200
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def figures(folder: Path) -> list[dict[str, object]]:
    """Every figure of a folder: its smallest file as a data URI, a title, a text, and its data.

    Args:
        folder: A report's; figures are ``NAME.svg`` or ``NAME.png``, their data ``NAME.csv``.
    """
    listed = _index(folder)
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in _TYPES:
            files.setdefault(path.stem, []).append(path)
    entries: list[dict[str, object]] = []
    total = 0
    order = list(listed)
    for name in sorted(files, key=lambda name: _place(name, order)):
        path = min(files[name], key=lambda path: path.stat().st_size)
        size = path.stat().st_size
        fits = size <= MOST_FIGURE_BYTES and total + size <= MOST_FIGURES_BYTES
        total += size if fits else 0
        title, caption = listed.get(name, (figure_title(name), ""))
        entries.append(
            {
                "name": path.name,
                "title": title,
                "caption": caption,
                "alt": _alt(title, name, folder),
                "source": _data_uri(path) if fits else "",
                "data": _data(folder / f"{_data_name(name)}.csv", title),
            }
        )
    return entries


def _index(folder: Path) -> dict[str, tuple[str, str]]:
    """Title and caption of the figures that the report's index lists, by name, in its order."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    listed = read_json(path)["figures"]
    assert isinstance(listed, list)
    return {entry["name"]: (entry["title"], entry["caption"]) for entry in listed}


def _place(name: str, order: Sequence[str]) -> tuple[bool, int, str]:
    """Curves first, then as the index has them, then the others by name."""
    index = order.index(name) if name in order else len(order)
    return (not name.startswith("curves"), index, name)


def _data_name(name: str) -> str:
    """All curves share one file of data."""
    return "curves" if name.startswith("curves_") else name


def figure_title(name: str) -> str:
    """A figure's title, from the name of its file."""
    stem, _, axis = name.partition("curves_")
    if name == "curves":
        return "Deciding metric over optimizer steps, with 95 % bands"
    if not stem and axis in COUNTER_TITLES:
        return f"Deciding metric over {COUNTER_TITLES[axis]}, with 95 % bands"
    return name.replace("_", " ").replace("-", " ").capitalize()


def _alt(title: str, name: str, folder: Path) -> str:
    data = " Its numbers follow as a table." if _has_data(name, folder) else ""
    return f"Figure: {title}.{data}"


def _has_data(name: str, folder: Path) -> bool:
    return (folder / f"{_data_name(name)}.csv").is_file()


def _data_uri(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:{_TYPES[path.suffix]};base64,{content}"


def _data(path: Path, title: str) -> DataTable | None:
    """The first rows of a figure's CSV; None where it has none."""
    if not path.is_file():
        return None
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
    """Numbers to six digits."""
    return f"{float(text):.6g}" if "." in text and _is_number(text) else text
