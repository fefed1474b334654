"""Curves over what training costs, of each method and of its paired difference."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from soarbench.config.stages import BASE, first_stage
from soarbench.report.figures.hover import hover, value_text
from soarbench.report.figures.labels import can_label, label_ends
from soarbench.report.figures.layout import MOST_COLUMNS, add_legend, panel_grid
from soarbench.report.figures.style import METHOD_STYLES, LineStyle, method_styles, style
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.names import METHOD_TITLES, Titles, method_title
from soarbench.report.numbers.reference import AS_PUBLISHED, PublishedPoint
from soarbench.store.facts import MetricFacts

AXIS_TITLES = {
    "step": "Optimizer steps", "images_seen": "Images seen", "seconds": "Seconds",
    "forward_equivalents": "Forward equivalents", "reward_calls": "Reward calls",
}  # fmt: skip
BAND_TITLE = "Bands: 95 % interval of each method alone"
PAIRED_TITLE = "lower row: of the paired difference"
_MOST_TICKS = 6
#: Least distance of two ticks that are places of their own, as a share of the panel.
_TICKS_APART = 0.1


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
    columns = 2 if len(panels) == 4 else min(len(panels), MOST_COLUMNS)
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
        labelled = names if columns < MOST_COLUMNS and can_label(axes, names) else set()
        for ax in axes if labelled else ():
            label_ends(ax, labelled)
        title = f"{BAND_TITLE}; {PAIRED_TITLE}" if has_leads else BAND_TITLE
        add_legend(figure, axes, title, labelled)
    return figure


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
