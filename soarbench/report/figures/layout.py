"""Where things lie in figures: panels, legends, and names that are longer than their place."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from soarbench.report.figures.hover import with_titles
from soarbench.report.figures.style import style

#: Inches. A figure fits the text width of a page, so that its letters keep their size there.
_TEXT_WIDTH, _LEGEND_HEIGHT, _LEGEND_ROW_HEIGHT = 6.9, 0.5, 0.17
_WIDEST_PANEL, _PANEL_HEIGHT, _LOW_PANEL_HEIGHT = 3.3, 2.5, 2.0
MOST_COLUMNS, _MOST_HIGH_ROWS = 3, 2


def panel_grid(
    count: int, columns: int | None = None, *, has_second_row: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows of at most three, or of ``columns``; ``ValueError`` for none.

    With ``has_second_row`` each has another one below it, which follow all first ones.
    """
    if count == 0:
        raise ValueError("no point to draw; no cell has such scores or measurements")
    columns = columns or min(count, MOST_COLUMNS)
    layers = 1 + has_second_row
    rows = layers * math.ceil(count / columns)
    width = min(_TEXT_WIDTH, _WIDEST_PANEL * columns)
    is_high = columns < MOST_COLUMNS and rows <= _MOST_HIGH_ROWS
    height = _PANEL_HEIGHT if is_high else _LOW_PANEL_HEIGHT
    figure = Figure(figsize=(width, height * rows + _LEGEND_HEIGHT), layout="constrained")
    # Without pyplot, which keeps every figure alive and may open windows.
    FigureCanvasAgg(figure)
    places = [
        (layers * (i // columns) + layer) * columns + i % columns + 1
        for layer in range(layers)
        for i in range(count)
    ]
    return figure, [figure.add_subplot(rows, columns, place) for place in places]


def stacked(heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure of panels of those heights, in inches, below each other."""
    size = (_TEXT_WIDTH, sum(heights))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=list(heights))
    return figure, [figure.add_subplot(grid[i]) for i in range(len(heights))]


def add_legend(
    figure: Figure, axes: Sequence[Axes], title: str, labelled: Collection[str] = ()
) -> None:
    """One legend for all panels, below them, without names that stand at their lines."""
    entries: dict[str, Artist] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    entries = {label: handle for label, handle in entries.items() if label not in labelled}
    # The most columns that fit: of long names the outer ones were cut off at both edges.
    most = max(1, min(len(entries), 4 if figure.get_figwidth() > _WIDEST_PANEL else 2))
    columns = next(n for n in range(most, 0, -1) if n == 1 or _fits(figure, entries, n))
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=columns,
        title=_folded(figure, title),
    )  # fmt: skip
    # Panels would have to make room for further rows.
    rows = math.ceil(len(entries) / columns) - math.ceil(len(entries) / most)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW_HEIGHT * rows)


def _fits(figure: Figure, entries: Mapping[str, Artist], columns: int) -> bool:
    """Whether a legend of that many columns is no wider than its figure."""
    tried = figure.legend(list(entries.values()), list(entries), ncols=columns)
    width = tried.get_window_extent().width
    tried.remove()
    return bool(width <= figure.bbox.width)


def _folded(figure: Figure, title: str) -> str:
    """A legend's title in as many lines as the figure's width needs."""
    tried = figure.text(0, 0, title, fontsize=mpl.rcParams["legend.title_fontsize"])
    lines = math.ceil(tried.get_window_extent().width / figure.bbox.width)
    tried.remove()
    return title if lines == 1 else textwrap.fill(title, math.ceil(1.1 * len(title) / lines))


def settle(figure: Figure) -> Figure:
    """Lay a figure out once and for all."""
    with style():
        engine = figure.get_layout_engine()
        assert engine is not None
        # Laying out takes no drawing, and a figure with an engine, even one that does nothing, is
        # drawn once more for every format. With "none" formats would also not look alike.
        engine.execute(figure)
        if _fold_crowded(figure):
            engine.execute(figure)
        figure.set_layout_engine(None)
    return figure


def _fold_crowded(figure: Figure) -> bool:
    """Fold titles and labels of panels that lie over others, or leave the page."""
    # Judges' and tasks' names are the user's, and as long as they like.
    texts = [
        (text, length, side)
        for ax in figure.axes
        for text, length, side in (
            (ax._left_title, ax.bbox.width, "width"),  # type: ignore[attr-defined]
            (ax.yaxis.label, ax.bbox.height, "height"),
        )
        if text.get_text()
    ]
    boxes = [text.get_window_extent() for text, _, _ in texts]
    page, is_folded = figure.bbox, False
    for i, ((text, length, side), box) in enumerate(zip(texts, boxes, strict=True)):
        others = (other for j, other in enumerate(boxes) if j != i)
        leaves = box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1
        size = getattr(box, side)
        # Labels that touch are read as one.
        if size > length and (leaves or any(map(box.padded(4).overlaps, others))):
            words = text.get_text()
            # A tenth less: lines are of unlike letters.
            text.set_text(textwrap.fill(words, max(1, int(0.9 * len(words) * length / size))))
            is_folded = True
    return is_folded


def save(figure: Figure, path: Path, file_format: str) -> None:
    """Write a figure as ``png``, ``pdf`` or ``svg``; the same figure gives the same bytes."""
    # Dates and versions would make two files of the same figure.
    dated = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}
    drawn = io.BytesIO() if file_format == "png" else path
    with style():
        figure.savefig(drawn, format=file_format, metadata={dated[file_format]: None})
    if file_format == "png":
        with Image.open(drawn) as image:
            # A drawing has few colours: 256 of its own look the same in a third of the bytes.
            few = image.convert("RGB").quantize(
                256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
            few.save(path, "PNG", dpi=image.info["dpi"], compress_level=9)
    if file_format == "svg":
        path.write_text(with_titles(path.read_text(encoding="utf-8")), encoding="utf-8")
