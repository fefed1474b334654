"""The forest plot: every method against the baseline, at the last steps and at equal cost."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from soarbench.report.figures.hover import hover
from soarbench.report.figures.layout import stacked
from soarbench.report.figures.style import LineStyle, method_styles, style
from soarbench.report.numbers.estimates import Comparison
from soarbench.report.numbers.forest import ForestPart
from soarbench.report.numbers.tables import TaskTable, finding
from soarbench.report.text.headline import heading

#: Inches of a line of a panel, and of what stands above and below its lines.
_LINE_HEIGHT, _FRAME_HEIGHT = 0.2, 0.75


def draw_forest(parts: Sequence[ForestPart]) -> Figure:
    """Draw a panel a task, a line a comparison; decided ones are filled. ``ValueError`` without."""
    tasks = list(dict.fromkeys(part.table.task for part in parts if part.comparisons))
    if not tasks:
        raise ValueError("forest plot: no method was compared")
    shown = {task: [one for one in parts if one.table.task == task] for task in tasks}
    heights = [sum(1 + len(one.comparisons) for one in own) for own in shown.values()]
    with style():
        figure, axes = stacked([_FRAME_HEIGHT + _LINE_HEIGHT * size for size in heights])
        for ax, (task, own) in zip(axes, shown.items(), strict=True):
            ax.set_title(f"Task: {task}" if len(tasks) > 1 else "")
            _draw_task(ax, [one for one in own if one.comparisons])
    return figure


def _draw_task(ax: Axes, parts: Sequence[ForestPart]) -> None:
    ticks: list[tuple[int, str]] = []
    # Of all methods, so that each looks as in the other figures.
    styles = method_styles({row.method for part in parts for row in part.table.rows})
    for part in parts:
        # A line of its own for the heading, which is as long as the panel is wide.
        ax.annotate(
            heading(part), (0, -len(ticks)), xycoords=("axes fraction", "data"), va="center",
            fontweight="bold", fontsize=7, bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
        )  # fmt: skip
        ticks.append((-len(ticks), ""))
        for one in part.comparisons:
            _draw_line(ax, -len(ticks), one, styles[one.method], part.table)
            ticks.append((-len(ticks), part.table.title(one.method)))
    ax.axvline(0, color="black", linewidth=0.9, linestyle=":", zorder=1)
    ax.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False, axis="y")
    ax.set_ylim(-len(ticks) + 0.4, 0.6)
    ax.set_xlabel(_direction(parts[0].table))


def _direction(table: TaskTable) -> str:
    facts = table.facts[table.final_metric]
    sides = ["← worse", "better →"] if facts.sign > 0 else ["← better", "worse →"]
    return f"   {facts.title}, paired difference   ".join(sides)


def _draw_line(ax: Axes, place: int, one: Comparison, look: LineStyle, table: TaskTable) -> None:
    interval = one.difference
    ends = [[interval.estimate - interval.low], [interval.high - interval.estimate]]
    ax.errorbar(interval.estimate, place, xerr=ends, color=look.color, elinewidth=1.4, capsize=2.5)
    face = look.color if one.verdict.is_decided else "white"
    (marker,) = ax.plot(
        [interval.estimate], [place], color=look.color, marker=look.marker, markerfacecolor=face,
        linestyle="none", zorder=3,
    )  # fmt: skip
    hover(marker, [finding(one, table.titles)])
    ax.annotate(
        str(one.verdict), (1.01, place), xycoords=("axes fraction", "data"), va="center",
        fontsize=7, annotation_clip=False,
    )  # fmt: skip
