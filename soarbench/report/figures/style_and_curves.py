"""Figures: take data, return a matplotlib figure; nothing global is touched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from soarbench.config.stages import first_stage
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.names import (
    BASE,
    METHOD_TITLES,
    Titles,
    method_title,
    ordered_methods,
)
from soarbench.report.numbers.reference import AS_PUBLISHED, PublishedPoint
from soarbench.store.facts import MetricFacts

STYLE_FILE = Path(__file__).with_name("soarbench.mplstyle")
AXIS_TITLES = {
    "step": "Optimizer steps",
    "images_seen": "Images seen",
    "forward_equivalents": "Forward equivalents",
    "reward_calls": "Reward calls",
    "seconds": "Seconds",
}
BAND_TITLE = "Bands: 95 % interval of each method alone"
#: Inches. A figure fits the text width of a page, so that its letters keep their size there.
_TEXT_WIDTH, _LEGEND_HEIGHT = 6.9, 0.5
_WIDEST_PANEL, _PANEL_HEIGHT, _LOW_PANEL_HEIGHT = 3.3, 2.5, 2.0
_MOST_TICKS = 6


@dataclass(frozen=True)
class LineStyle:
    """How a method is drawn; colour alone never tells two methods apart."""

    color: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str


#: Okabe and Ito's colours, which colour-blind readers can tell apart; dark to light in grey.
METHOD_STYLES = {
    BASE: LineStyle("#000000", ":", "D"),
    "soar": LineStyle("#0072B2", "-", "o"),
    "flow_grpo": LineStyle("#009E73", "-.", "^"),
    "sft": LineStyle("#E69F00", "--", "s"),
}
_OTHER_STYLES = (
    LineStyle("#D55E00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    LineStyle("#CC79A7", (0, (1, 1)), "P"),
    LineStyle("#56B4E9", (0, (8, 3)), "X"),
)


@contextmanager
def style() -> Iterator[None]:
    """Apply the style file, over matplotlib's own defaults and not the user's settings."""
    with mpl.rc_context():
        # A user's matplotlibrc must not change a report.
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(STYLE_FILE, use_default_template=False))
        yield


def method_styles(methods: Sequence[str]) -> dict[str, LineStyle]:
    """The style of each method; those that are not known share out the rest in order."""
    others = [method for method in ordered_methods(methods) if method not in METHOD_STYLES]
    spare = {name: _OTHER_STYLES[i % len(_OTHER_STYLES)] for i, name in enumerate(others)}
    return {method: METHOD_STYLES.get(method) or spare[method] for method in methods}


def draw_curves(
    points: Sequence[CurvePoint],
    facts: Mapping[str, MetricFacts],
    *,
    x: str = "step",
    published: Sequence[PublishedPoint] = (),
    titles: Titles = METHOD_TITLES,
) -> Figure:
    """Draw metric over steps, one panel a task and metric, with 95 % bands.

    All methods start from the base's point at 0, a second stage from the end of its first.

    Args:
        points: From ``build_curves``.
        facts: About each metric.
        x: ``step``, or a counter of training.
        published: Drawn as thin lines, over steps only; pass them where the protocol compares.
        titles: Of the methods.

    Raises:
        ValueError: ``x`` is neither, or there is nothing to draw.
    """
    if x not in AXIS_TITLES:
        raise ValueError(f"x={x!r}: must be one of {', '.join(AXIS_TITLES)}")
    panels = list(dict.fromkeys((point.task, point.metric) for point in points))
    if not panels:
        raise ValueError("curves: no point to draw; no cell has scores")
    with style():
        figure, axes = panel_grid(len(panels))
        for ax, (task, metric) in zip(axes, panels, strict=True):
            ax.set_title(f"Task: {task}" if task != panels[0][0] or task != panels[-1][0] else "")
            ax.set_ylabel(facts[metric].title)
            ax.set_xlabel(AXIS_TITLES[x])
            # The paper gives steps alone, no cost.
            if x == "step":
                _draw_published(ax, [o for o in published if (o.task, o.metric) == (task, metric)])
            own = [p for p in points if (p.task, p.metric) == (task, metric)]
            draw_panel(ax, own, x=x, titles=titles)
        add_legend(figure, axes, BAND_TITLE)
    return figure


def panel_grid(count: int, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels in rows of at most three, or of ``columns``."""
    columns = columns or min(count, 3)
    rows = math.ceil(count / columns)
    width = min(_TEXT_WIDTH, _WIDEST_PANEL * columns)
    height = _PANEL_HEIGHT if columns < 3 else _LOW_PANEL_HEIGHT
    figure = Figure(
        figsize=(width, height * rows + _LEGEND_HEIGHT),
        layout="constrained",
    )
    # Without pyplot, which keeps every figure alive and may open windows.
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _draw_published(ax: Axes, points: Sequence[PublishedPoint]) -> None:
    """The paper's curves: thin, grey, in each method's dashes."""
    for method in ordered_methods({point.method for point in points}):
        line = [point for point in points if point.method == method]
        ax.plot(
            [point.step for point in line],
            [point.value for point in line],
            color="0.55",
            linewidth=0.7,
            linestyle=method_styles([method])[method].dashes,
            label=f"{method_title(method)}, {AS_PUBLISHED}",
        )


def draw_panel(
    ax: Axes,
    points: Sequence[CurvePoint],
    *,
    x: str = "step",
    marked: Mapping[str, int] | None = None,
    titles: Titles = METHOD_TITLES,
) -> None:
    """Draw all methods' curves of one quantity.

    Args:
        ax: Where to.
        points: Of one task and quantity.
        x: ``step``, or a counter of training.
        marked: Step of each method whose marker is filled.
        titles: Of the methods.
    """
    methods = ordered_methods({point.method for point in points})
    styles = method_styles(methods)
    start = [point for point in points if point.method == BASE]
    lines = {method: _line(points, method) for method in methods if method != BASE}
    for method, line in lines.items():
        placed = [point for point in line if x == "step" or x in point.spent]
        if placed:
            _draw_line(ax, placed, styles[method], x=x, label=method_title(method, titles))
            last = max((p.step for p in line if p.method != method), default=0)
            chosen = last + (marked or {}).get(method, -1)
            own = [p for p in placed if p.method == method and p.step == chosen]
            _draw_marked(ax, own, styles[method], x=x)
    if start:
        _draw_base(ax, start[0], styles[BASE])
    steps = sorted({point.step for line in (start, *lines.values()) for point in line})
    # Few evaluations have a tick each, so that a reader sees where something was measured.
    if x == "step" and len(steps) <= _MOST_TICKS:
        ax.set_xticks(steps)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=_MOST_TICKS, integer=True))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.margins(x=0.04)


def _line(points: Sequence[CurvePoint], method: str) -> list[CurvePoint]:
    """A method's points from where it started: the base, or the end of its first stage."""
    own = sorted((p for p in points if p.method == method), key=lambda point: point.step)
    earlier = first_stage(method)
    if not earlier:
        return [*(point for point in points if point.method == BASE), *own]
    before = _line(points, earlier)
    if not own or not before or before[-1].method != earlier:
        return own
    end = before[-1]
    return [
        end,
        *(
            replace(
                point,
                step=end.step + point.step,
                spent={k: end.spent[k] + v for k, v in point.spent.items() if k in end.spent},
            )
            for point in own
        ),
    ]


def _position(point: CurvePoint, x: str) -> float:
    return point.spent[x] if x in COUNTERS else point.step


def _draw_line(
    ax: Axes, line: Sequence[CurvePoint], look: LineStyle, *, x: str, label: str
) -> None:
    """One method: a band, and a line with a marker at every point that is its own."""
    across = [_position(point, x) for point in line]
    bands = [(point.value, point.low, point.high) for point in line]
    own = [i for i, point in enumerate(line) if point.method != BASE]
    draw_band(ax, across, bands, look, label=label, markevery=own)


def draw_band(
    ax: Axes,
    across: Sequence[float],
    bands: Sequence[tuple[float, float, float]],
    look: LineStyle,
    *,
    label: str,
    markevery: Sequence[int],
) -> None:
    """A line of (value, low, high) with its interval, and markers at some of its points."""
    values, low, high = zip(*bands, strict=True)
    ax.fill_between(across, low, high, color=look.color, alpha=0.13, linewidth=0)
    # Edges tell overlapping bands apart, also in grey.
    for edge in (low, high):
        ax.plot(across, edge, color=look.color, linestyle=look.dashes, linewidth=0.5, alpha=0.7)
    ax.plot(
        across,
        values,
        color=look.color,
        linestyle=look.dashes,
        marker=look.marker,
        markerfacecolor="white",
        markevery=list(markevery),
        label=label,
    )


def _draw_marked(ax: Axes, chosen: Sequence[CurvePoint], look: LineStyle, *, x: str) -> None:
    """Fill the marker of the checkpoint that a rule chose."""
    for point in chosen:
        ax.plot(
            [_position(point, x)], [point.value], color=look.color, marker=look.marker, zorder=4
        )


def _draw_base(ax: Axes, point: CurvePoint, look: LineStyle) -> None:
    """The shared start, and a level to compare with."""
    ax.axhline(point.value, color=look.color, linestyle=look.dashes, linewidth=0.9, zorder=1)
    ax.plot(
        [0],
        [point.value],
        color=look.color,
        linestyle=look.dashes,
        linewidth=0.9,
        marker=look.marker,
        label=method_title(BASE),
        zorder=5,
        clip_on=False,
    )


def add_legend(figure: Figure, axes: Sequence[Axes], title: str) -> None:
    """One legend for all panels, below them."""
    entries: dict[str, Artist] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    columns = 4 if figure.get_figwidth() > _WIDEST_PANEL else 2
    figure.legend(
        handles=list(entries.values()),
        labels=list(entries),
        loc="outside lower center",
        ncols=min(len(entries), columns),
        title=title,
    )


def settle(figure: Figure) -> Figure:
    """Lay a figure out once and for all; else every format would do it again."""
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def save(figure: Figure, path: Path, file_format: str) -> None:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: From a function of this module.
        path: Of the file, whatever its suffix.
        file_format: ``png``, ``pdf`` or ``svg``.
    """
    # Dates and versions would make two files of the same figure.
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with style():
        figure.savefig(path, format=file_format, metadata=undated[file_format])
