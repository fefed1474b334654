"""Figures: take data, return a matplotlib figure; nothing global is touched."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from soarbench.config.stages import BASE, first_stage
from soarbench.report.figures.hover import hover, value_text, with_titles
from soarbench.report.figures.labels import can_label, label_ends
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.names import METHOD_TITLES, Titles, method_title, ordered_methods
from soarbench.report.numbers.reference import AS_PUBLISHED, PublishedPoint
from soarbench.store.facts import MetricFacts

STYLE_FILE = Path(__file__).with_name("soarbench.mplstyle")
AXIS_TITLES = {
    "step": "Optimizer steps", "images_seen": "Images seen", "seconds": "Seconds",
    "forward_equivalents": "Forward equivalents", "reward_calls": "Reward calls",
}  # fmt: skip
BAND_TITLE = "Bands: 95 % interval of each method alone"
PAIRED_TITLE = "lower row: of the paired difference"
#: Inches. A figure fits the text width of a page, so that its letters keep their size there.
_TEXT_WIDTH, _LEGEND_HEIGHT, _LEGEND_ROW_HEIGHT = 6.9, 0.5, 0.17
_WIDEST_PANEL, _PANEL_HEIGHT, _LOW_PANEL_HEIGHT = 3.3, 2.5, 2.0
_MOST_TICKS = 6
#: Least distance of two ticks that are places of their own, as a share of the panel.
_TICKS_APART = 0.1
_MOST_COLUMNS, _MOST_HIGH_ROWS = 3, 2


@dataclass(frozen=True)
class LineStyle:
    """How a method is drawn; colour alone never tells two methods apart."""

    color: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str
    hatch: str = ""

    @property
    def line(self) -> dict[str, Any]:
        """As matplotlib's arguments, without the marker."""
        return {"color": self.color, "linestyle": self.dashes}

    @property
    def hollow(self) -> dict[str, Any]:
        """The same with hollow markers, beside which a filled one stands out."""
        return {**self.line, "marker": self.marker, "markerfacecolor": "white"}


#: Okabe and Ito's colours, which colour-blind readers can tell apart; dark to light in grey.
METHOD_STYLES = {
    BASE: LineStyle("#000000", ":", "D", "xx"),
    "soar": LineStyle("#0072B2", "-", "o"),
    "flow_grpo": LineStyle("#009E73", "-.", "^", "..."),
    "sft": LineStyle("#E69F00", "--", "s", "///"),
}
_OTHER_STYLES = (
    LineStyle("#D55E00", (0, (5, 1, 1, 1, 1, 1)), "v", "\\\\\\"),
    LineStyle("#CC79A7", (0, (1, 1)), "P", "++"),
    LineStyle("#56B4E9", (0, (8, 3)), "X", "**"),
    LineStyle("#882255", (0, (5, 2)), "<", "---"),
    LineStyle("#7F7F7F", (0, (3, 1, 1, 1)), "h", "ooo"),
    LineStyle("#332288", (0, (2, 2)), ">", "|||"),
    LineStyle("#999933", (0, (6, 1, 2, 1)), "p", "OO"),
    LineStyle("#AA4499", (0, (1, 3)), "d", "xx.."),
)


@contextmanager
def style() -> Iterator[None]:
    """Apply the style file, over matplotlib's own defaults and not the user's settings."""
    with mpl.rc_context():
        # A user's matplotlibrc must not change a report.
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(STYLE_FILE, use_default_template=False))
        yield


def method_styles(methods: Collection[str]) -> dict[str, LineStyle]:
    """The style of each method, in the order of legends; unknown ones share out the rest."""
    ordered = ordered_methods(methods)
    others = [method for method in ordered if method not in METHOD_STYLES]
    spare = {name: _spare_style(i) for i, name in enumerate(others)}
    return {method: METHOD_STYLES.get(method) or spare[method] for method in ordered}


def _spare_style(number: int) -> LineStyle:
    """Of a method without a style of its own; 33 and more before two are alike."""
    if number < len(_OTHER_STYLES):
        return _OTHER_STYLES[number]
    looks = [*(look for name, look in METHOD_STYLES.items() if name != BASE), *_OTHER_STYLES]
    shift, place = divmod(number - len(_OTHER_STYLES), len(looks))
    # The colour of one and the rest of another: nobody can tell more colours apart than these.
    rest = looks[(place + 1 + shift) % len(looks)]
    return replace(rest, color=looks[place].color)


def draw_curves(
    points: Sequence[CurvePoint],
    facts: Mapping[str, MetricFacts],
    *,
    x: str = "step",
    differences: Sequence[CurvePoint] = (),
    baseline: str = "",
    published: Sequence[PublishedPoint] = (),
    titles: Titles = METHOD_TITLES,
) -> Figure:
    """Draw metric over steps, one panel a task and metric, with 95 % bands.

    Nothing joins the base to a method's first point, between which nothing was measured; a second
    stage goes on from the end of its first. ``differences`` to the ``baseline``, with paired
    intervals, have a second row; ``published`` are thin lines, for where the protocol compares.

    Raises:
        ValueError: ``x`` is neither ``step`` nor a counter of training, or there is no point.
    """
    if x not in AXIS_TITLES:
        raise ValueError(f"x={x!r}: must be one of {', '.join(AXIS_TITLES)}")
    panels = list(dict.fromkeys((point.task, point.metric) for point in points))
    has_tasks = len({task for task, _ in panels}) > 1
    # Two rows of two leave no hole, as one of three and a lonely fourth would.
    columns = 2 if len(panels) == 4 else min(len(panels), _MOST_COLUMNS)
    # With more rows the figure would be higher than a page.
    has_leads = x == "step" and len(panels) <= 2 * columns
    # An empty panel would look like a fault.
    has_leads &= {(point.task, point.metric) for point in differences} == set(panels)
    with style():
        figure, axes = panel_grid(len(panels), columns, has_second_row=has_leads)
        for i, key in enumerate(panels):
            task, metric = key
            own = [p for p in points if (p.task, p.metric) == key]
            leads = [p for p in differences if (p.task, p.metric) == key]
            lines = [p for p in published if (p.task, p.metric) == key]
            title = f"Task: {task}" if has_tasks else ""
            axes[i].set(title=title, xlabel=AXIS_TITLES[x], ylabel=facts[metric].title)
            # The paper gives steps alone, no cost.
            if x == "step":
                _draw_published(axes[i], lines)
            draw_panel(axes[i], own, x=x, titles=titles, decimals=facts[metric].decimals)
            if has_leads:
                below = axes[len(panels) + i]
                draw_differences(below, leads, own, facts[metric].decimals, titles)
                below.set_ylabel(f"Difference to {method_title(baseline, titles)}")
                below.sharex(axes[i])
        names = {method_title(p.method, titles) for p in points if p.method != BASE}
        # Names would squeeze three panels of a row.
        labelled = names if columns < _MOST_COLUMNS and can_label(axes, names) else set()
        for ax in axes if labelled else ():
            label_ends(ax, labelled)
        title = f"{BAND_TITLE}; {PAIRED_TITLE}" if has_leads else BAND_TITLE
        add_legend(figure, axes, title, labelled)
    return figure


def panel_grid(
    count: int, columns: int | None = None, *, has_second_row: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows of at most three, or of ``columns``; ``ValueError`` for none.

    With ``has_second_row`` each has another one below it, which follow all first ones.
    """
    if count == 0:
        raise ValueError("no point to draw; no cell has such scores or measurements")
    columns = columns or min(count, _MOST_COLUMNS)
    layers = 1 + has_second_row
    rows = layers * math.ceil(count / columns)
    width = min(_TEXT_WIDTH, _WIDEST_PANEL * columns)
    is_high = columns < _MOST_COLUMNS and rows <= _MOST_HIGH_ROWS
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


def _draw_published(ax: Axes, points: Sequence[PublishedPoint]) -> None:
    """The paper's curves: thin, grey, in each method's dashes; dots are its points, all exact."""
    for method, look in method_styles({point.method for point in points}).items():
        line = [point for point in points if point.method == method]
        steps, values = [point.step for point in line], [point.value for point in line]
        thin = {**look.line, "color": "0.55", "linewidth": 0.7, "marker": ".", "markersize": 3}
        ax.plot(steps, values, **thin, label=f"{method_title(method)}, {AS_PUBLISHED}")


def draw_panel(
    ax: Axes,
    points: Sequence[CurvePoint],
    *,
    x: str = "step",
    marked: Mapping[str, int] | None = None,
    titles: Titles = METHOD_TITLES,
    decimals: int = 4,
) -> None:
    """Draw all methods' curves of one quantity; the markers of ``marked`` steps are filled."""
    start = [point for point in points if point.method == BASE]
    steps = {point.step for point in start}
    for method, look in method_styles({point.method for point in points} - {BASE}).items():
        line = _line(points, method)
        steps |= {point.step for point in line}
        placed = [point for point in line if x == "step" or x in point.spent]
        if not placed:
            continue
        across = [point.step if x == "step" else point.spent[x] for point in placed]
        # The end of a first stage has that stage's marker.
        own = [i for i, point in enumerate(placed) if point.method == method]
        title = method_title(method, titles)
        line_of = draw_band(ax, across, _bands(placed), look, label=title, markevery=own)
        hover(line_of, [_label(placed[i], title, decimals) for i in own])
        # A rule counts the steps of the method's own stage.
        last = max((p.step for p in line if p.method != method), default=0)
        chosen = last + (marked or {}).get(method, -1)
        for place, point in zip(across, placed, strict=True):
            if (point.method, point.step) == (method, chosen):
                ax.plot([place], [point.value], color=look.color, marker=look.marker, zorder=4)
    if start:
        # The shared start, and a level to compare with.
        level, look = start[0].value, METHOD_STYLES[BASE]
        thin = {**look.line, "linewidth": 0.9}
        ax.axhline(level, **thin, zorder=1)
        # Unclipped and above all lines: it lies on the axis, where every curve begins.
        thin |= {"marker": look.marker, "zorder": 5, "clip_on": False}
        ax.plot([0], [level], **thin, label=method_title(BASE))
    # Few evaluations have a tick each, so that a reader sees where something was measured.
    ticks = sorted(steps)
    if x == "step" and len(ticks) <= _MOST_TICKS and _are_apart(ticks):
        ax.set_xticks(ticks)
        # 1k to 5k, which stay apart in three panels of a row; 1234 is no shorter so.
        if all(tick < 1000 or tick % 100 == 0 for tick in ticks):
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        _count_shortly(ax)
    ax.margins(x=0.04)


def _are_apart(ticks: Sequence[int]) -> bool:
    """Whether numbers at those places do not run into each other."""
    gaps = [after - before for before, after in itertools.pairwise(ticks)]
    return min(gaps, default=1) >= _TICKS_APART * (ticks[-1] - ticks[0])


def _count_shortly(ax: Axes) -> None:
    """A few even numbers along a panel, 1.2k for 1200."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=_MOST_TICKS, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _bands(points: Sequence[CurvePoint]) -> list[tuple[float, float, float]]:
    return [(point.value, point.low, point.high) for point in points]


def _label(point: CurvePoint, title: str, decimals: int, sign: str = "") -> str:
    """A point in words."""
    text = value_text(point.value, point.low, point.high, decimals, sign)
    return f"{title}, {point.step:,} steps: {text}"


def draw_differences(
    ax: Axes,
    differences: Sequence[CurvePoint],
    points: Sequence[CurvePoint],
    decimals: int,
    titles: Titles,
) -> None:
    """Draw differences to the baseline at the same steps as the ``points`` of a panel above."""
    draw_zero(ax)
    ax.set_xlabel(AXIS_TITLES["step"])
    for method, look in method_styles({point.method for point in points} - {BASE}).items():
        own = sorted((p for p in differences if p.method == method), key=lambda p: p.step)
        if not own:
            continue
        line = [point for point in _line(points, method) if point.method == method]
        shift = line[0].step - min(p.step for p in points if p.method == method)
        placed = [replace(point, step=point.step + shift) for point in own]
        title = method_title(method, titles)
        steps, every = [point.step for point in placed], range(len(placed))
        drawn = draw_band(ax, steps, _bands(placed), look, label=title, markevery=every)
        hover(drawn, [_label(point, title, decimals, "+") for point in placed])


def _line(points: Sequence[CurvePoint], method: str) -> list[CurvePoint]:
    """A method's points; of a second stage from the end of its first on."""
    own = sorted((p for p in points if p.method == method), key=lambda point: point.step)
    earlier = first_stage(method)
    # Curves are steepest before the first snapshot: a line from the base would be an invention.
    if not earlier:
        return own
    before = _line(points, earlier)
    # From the base it would look as if the second stage had done the work of both.
    if not own or not before or before[-1].method != earlier:
        return own
    end = before[-1]
    later = [
        replace(
            point,
            step=end.step + point.step,
            spent={k: end.spent[k] + v for k, v in point.spent.items() if k in end.spent},
        )
        for point in own
    ]
    return [end, *later]


def draw_band(
    ax: Axes,
    across: Sequence[float],
    bands: Sequence[tuple[float, float, float]],
    look: LineStyle,
    *,
    label: str,
    markevery: Sequence[int],
) -> Line2D:
    """A line of (value, low, high) with its interval, and markers at some of its points."""
    values, low, high = zip(*bands, strict=True)
    ax.fill_between(across, low, high, color=look.color, alpha=0.1, linewidth=0)
    if len(across) == 1:
        # A band of one point has no width.
        ax.vlines(across, low, high, color=look.color, linewidth=1.2, alpha=0.7)
    # Edges tell overlapping bands apart, also in grey.
    for edge in (low, high):
        ax.plot(across, edge, **look.line, linewidth=0.5, alpha=0.7)
    (line,) = ax.plot(across, values, **look.hollow, markevery=list(markevery), label=label)
    return line


def draw_zero(ax: Axes) -> None:
    """The base's level in a panel of differences to it."""
    draw_level(ax, 0.0)


def draw_level(ax: Axes, level: float) -> None:
    """The base's level in a panel over steps."""
    ax.axhline(level, color="black", linewidth=0.9, linestyle=":", zorder=1)
    _count_shortly(ax)


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
