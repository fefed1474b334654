"""Figures about exposure bias: what models do off the training path, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from soarbench.report.figures.curves import draw_zero
from soarbench.report.figures.hover import hover, value_text
from soarbench.report.figures.layout import add_legend, panel_grid
from soarbench.report.figures.style import method_styles, style
from soarbench.report.numbers.exposure import MEASURES, ExposurePoint
from soarbench.report.numbers.names import BASE, METHOD_TITLES, Titles, method_title
from soarbench.report.numbers.robustness import RobustnessPoint
from soarbench.stats.significance import Verdict
from soarbench.store.facts import MetricFacts

#: Share of the distance between two levels that their methods spread over.
_SPREAD = 0.5


def draw_exposure(points: Sequence[ExposurePoint], titles: Titles = METHOD_TITLES) -> Figure:
    """Draw a panel a measure of one task: the change from the base at every level.

    ``ValueError`` without any point.
    """
    names = [name for name in MEASURES if any(point.measure == name for point in points)]
    with style():
        figure, axes = panel_grid(len(names))
        for ax, name in zip(axes, names, strict=True):
            own = [point for point in points if point.measure == name]
            ax.set_title(MEASURES[name].title)
            ax.set_ylabel("Change from base")
            _draw_measure(ax, own, titles)
        title = "Lines: 95 % intervals, paired with the base; filled: differs from the baseline"
        add_legend(figure, axes, title)
    return figure


def _draw_measure(ax: Axes, points: Sequence[ExposurePoint], titles: Titles) -> None:
    """Levels side by side, the methods of each beside each other."""
    levels = sorted({point.level for point in points}, reverse=True)
    marks = [
        Mark(levels.index(p.level), p.method, p.change, p.change_low, p.change_high, p.verdict)
        for p in points
        # The base's change from itself is the zero line.
        if p.method != BASE
    ]
    _draw_marks(ax, marks, titles)
    draw_zero(ax)
    ax.set_xticks(range(len(levels)), [f"$\\sigma$ = {level:g}" for level in levels])


class Mark(NamedTuple):
    """An interval of one method at one of several places, filled where its verdict is decided."""

    place: int
    method: str
    value: float
    low: float
    high: float
    verdict: Verdict | None


def _draw_marks(ax: Axes, marks: Sequence[Mark], titles: Titles) -> None:
    """The methods of each place beside each other; what is nan is left out."""
    styles = method_styles({mark.method for mark in marks})
    for number, (method, look) in enumerate(styles.items()):
        shift = _SPREAD * ((number + 0.5) / len(styles) - 0.5)
        for mark in marks:
            if mark.method != method or math.isnan(mark.value):
                continue
            is_decided = mark.verdict is not None and mark.verdict.is_decided
            drawn = ax.errorbar(
                mark.place + shift, mark.value,
                # Ends of an interval of no width may lie a rounding on the wrong side.
                yerr=[[max(mark.value - mark.low, 0)], [max(mark.high - mark.value, 0)]],
                color=look.color, marker=look.marker, linestyle="none", capsize=2, elinewidth=0.9,
                markerfacecolor=look.color if is_decided else "white",
                label=method_title(method, titles),
            )  # fmt: skip
            text = value_text(mark.value, mark.low, mark.high, 4)
            hover(drawn.lines[0], [f"{method_title(method, titles)}: {text}"])
    ax.set_xlim(-0.5, max(mark.place for mark in marks) + 0.5)


def draw_robustness(
    points: Sequence[RobustnessPoint],
    facts: Mapping[str, MetricFacts],
    titles: Titles = METHOD_TITLES,
) -> Figure:
    """Draw a row a metric of one task: scores by sampler, and what changes between methods.

    ``ValueError`` without any point.
    """
    metrics = list(dict.fromkeys(point.metric for point in points))
    with style():
        figure, axes = panel_grid(2 * len(metrics), 2)
        for row, metric in enumerate(metrics):
            own = [point for point in points if point.metric == metric]
            scores, leads = axes[2 * row : 2 * row + 2]
            xlabel = "Sampler steps (+ noise, at other guidance)"
            scores.set(ylabel=facts[metric].title, xlabel=xlabel)
            leads.set(ylabel="Difference to usual sampler", xlabel=xlabel)
            if row == 0:
                scores.set_title("Score")
                leads.set_title("Change of the lead on the baseline")
            guidance = {point.guidance_scale for point in own if point.is_usual}
            by_point = {point: _sampler_title(point, guidance) for point in own}
            names = list(dict.fromkeys(by_point.values()))
            places = {point: names.index(name) for point, name in by_point.items()}
            _draw_marks(scores, [_score(*one) for one in places.items()], titles)
            _draw_marks(leads, [_lead(*one) for one in places.items()], titles)
            draw_zero(leads)
            for ax in (scores, leads):
                ax.set_xticks(range(len(names)), names)
        title = "Lines: 95 % intervals; filled: decided after Holm's correction"
        add_legend(figure, axes, title)
    return figure


def _score(point: RobustnessPoint, place: int) -> Mark:
    return Mark(place, point.method, point.value, point.low, point.high, None)


def _lead(point: RobustnessPoint, place: int) -> Mark:
    ends = point.interaction_low, point.interaction_high
    return Mark(place, point.method, point.interaction, *ends, point.verdict)


def _sampler_title(point: RobustnessPoint, usual_guidance: Collection[float]) -> str:
    # A line each: beside the steps the noise ran into the next sampler's.
    noise = f"\n+{point.state_noise:g}" if point.state_noise else ""
    usual = "\n(usual)" if point.is_usual else ""
    other = "" if point.guidance_scale in usual_guidance else f"\nat {point.guidance_scale:g}"
    return f"{point.num_inference_steps}{noise}{usual}{other}"
