"""The table as bars: what each method changed against the base, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from soarbench.report.figures.hover import hover, value_text
from soarbench.report.figures.layout import add_legend, panel_grid
from soarbench.report.figures.style import method_styles, style
from soarbench.report.numbers.names import BASE, METHOD_TITLES, Titles, method_title
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.tables import TaskTable
from soarbench.stats import mean_interval
from soarbench.store.facts import MetricFacts


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One method's change of one metric from the base's value, its interval paired by image."""

    task: str
    metric: str
    method: str
    step: int
    base: float
    change: float
    low: float
    high: float
    num_prompts: int
    num_seeds: int


def build_bars(panels: Mapping[tuple[str, str], Panel], tables: Sequence[TaskTable]) -> list[Bar]:
    """All metrics of all tasks at the last steps; empty without the base."""
    bars = []
    for table in tables:
        for panel in (panels[table.task, metric] for metric in table.metrics):
            bars += [_bar(panel, method) for method in panel.methods if method != BASE]
    return [bar for bar in bars if bar is not None]


def _bar(panel: Panel, method: str) -> Bar | None:
    """One bar; None where no image was scored for both."""
    # Without the base there is nothing that a bar could stand on.
    if BASE not in panel.methods:
        return None
    step, base_step = panel.steps(method)[-1], panel.steps(BASE)[-1]
    try:
        differences = panel.differences((method, step), (BASE, base_step))
        base = panel.scores(BASE, base_step).mean()
    except ValueError:
        return None
    change = mean_interval(differences)
    return Bar(
        task=panel.task, metric=panel.evaluator, method=method, step=step, base=base,
        change=change.estimate, low=change.low, high=change.high,
        num_prompts=change.num_prompts, num_seeds=change.num_seeds,
    )  # fmt: skip


def draw_bars(
    bars: Sequence[Bar], facts: Mapping[str, MetricFacts], titles: Titles = METHOD_TITLES
) -> Figure:
    """Draw a panel a metric; zero is the base, whose value it names. ``ValueError`` without any."""
    groups = list(dict.fromkeys((bar.task, bar.metric) for bar in bars))
    has_tasks = len({task for task, _ in groups}) > 1
    with style():
        # Two rows of two leave no hole, as one of three and a lonely fourth would.
        figure, axes = panel_grid(len(groups), 2 if len(groups) in (2, 4) else None)
        for ax, (task, metric) in zip(axes, groups, strict=True):
            own = [bar for bar in bars if (bar.task, bar.metric) == (task, metric)]
            where = f"{task}: " if has_tasks else ""
            ax.set_title(f"{where}{facts[metric].title}", fontsize=8)
            ax.set_ylabel(f"Change from base ({own[0].base:.{facts[metric].decimals}f})")
            _draw_group(ax, own, titles, facts[metric].decimals)
        add_legend(figure, axes, "Lines: 95 % intervals, paired with the base by image")
    return figure


def _draw_group(ax: Axes, bars: Sequence[Bar], titles: Titles, decimals: int) -> None:
    styles = method_styles([bar.method for bar in bars])
    for place, bar in enumerate(bars):
        look = styles[bar.method]
        (patch,) = ax.bar(
            place, bar.change, width=0.66, color=look.color, edgecolor="white", linewidth=0,
            # Hatches tell methods apart in grey, as dashes do in the curves.
            hatch=look.hatch, label=method_title(bar.method, titles),
        )  # fmt: skip
        text = value_text(bar.change, bar.low, bar.high, decimals, "+")
        hover(patch, [f"{method_title(bar.method, titles)}: {text}"])
        ends = [[bar.change - bar.low], [bar.high - bar.change]]
        ax.errorbar(place, bar.change, yerr=ends, color="black", elinewidth=1, capsize=3)
    ax.axhline(0, color="black", linewidth=0.7)
    # The legend names the methods; their names would not fit below the bars.
    ax.set(xticks=[], xlim=(-0.6, len(bars) - 0.4))
