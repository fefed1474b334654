"""Figures about whether a gain is real: over-optimisation, and proxy against oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from soarbench.config.stages import first_stage
from soarbench.report.figures.curves import (
    AXIS_TITLES,
    BAND_TITLE,
    draw_band,
    draw_level,
    draw_panel,
)
from soarbench.report.figures.hover import hover, value_text
from soarbench.report.figures.layout import add_legend, panel_grid
from soarbench.report.figures.style import method_styles, style
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.diagnostics import QUANTITIES
from soarbench.report.numbers.gaming import Benchmark, Gaming, GamingPoint
from soarbench.report.numbers.names import BASE, METHOD_TITLES, Titles, method_title
from soarbench.stats.intervals import Interval
from soarbench.store.facts import MetricFacts

#: From the base to the truth of what choosing gains.
_CHOICE: dict[str, Any] = {"color": "0.35", "linewidth": 0.8}


def draw_overoptimisation(
    points: Sequence[CurvePoint],
    facts: Mapping[str, MetricFacts],
    roles: Mapping[str, str],
    marked: Mapping[str, int],
    rule: str,
    *,
    titles: Titles = METHOD_TITLES,
) -> Figure:
    """Draw everything that moves while one number is optimised, a panel a quantity of one task.

    ``roles`` say what each judge was to training, e.g. trained on, and ``marked`` the checkpoints
    that ``rule`` chose. ``ValueError`` without any point.
    """
    names = list(dict.fromkeys(point.metric for point in points))
    with style():
        figure, axes = panel_grid(len(names))
        for ax, name in zip(axes, names, strict=True):
            own = [point for point in points if point.metric == name]
            title, unit = QUANTITIES.get(name) or (facts[name].title, roles[name])
            ax.set(title=title, xlabel=AXIS_TITLES["step"], ylabel=unit)
            draw_panel(ax, own, marked=marked, titles=titles)
        # Every panel is of one task, whose name would crowd out what the panel shows.
        figure.suptitle(f"Task: {points[0].task}", x=0.01, ha="left", fontweight="bold")
        title = f"{BAND_TITLE}; filled markers: checkpoint by rule {rule!r}"
        add_legend(figure, axes, title)
    return figure


def draw_gaming(measured: Sequence[Gaming], titles: Titles = METHOD_TITLES) -> Figure:
    """Draw a learned score against what it stands for, a row a pair of a task.

    The course of training in the plane of both gains, beside what choosing among the base's images
    gains; what is short of that over steps; and the correlation of both scores. ``ValueError``
    without.
    """
    with style():
        figure, axes = panel_grid(3 * len(measured), 3)
        for row, one in enumerate(measured):
            points = [point for point in one.points if point.since == BASE]
            plane, shortfall, correlation = axes[3 * row : 3 * row + 3]
            plane.set_title(f"{one.task}: {one.proxy.title}")
            plane.set(xlabel="Score gain (SD)", ylabel=f"{one.truth.title} gain (SD)")
            _draw_plane(plane, points, one.benchmark, titles)
            shortfall.set(title="Gamed part of the gain", ylabel="Shortfall (SD)")
            _draw_course(shortfall, points, "shortfall", titles)
            if any(point.shortfall is not None for point in points):
                _shade_gamed(shortfall)
            correlation.set(title="Still ranks images?", ylabel="Correlation in a prompt")
            _draw_course(correlation, points, "correlation", titles)
        title = "Bars and bands: 95 % intervals; gains are paired with the base by image"
        add_legend(figure, axes, title)
    return figure


def _shade_gamed(ax: Axes) -> None:
    """Mark the half of a panel of shortfalls in which gains are gamed."""
    low, high = ax.get_ylim()
    # Room for the words, which would stand on the curves.
    room = 0.14 * (high - low)
    low, high = min(low, 0) - room, max(high, 0) + room
    ax.axhspan(0, high, color="0.93", zorder=0)
    ax.set_ylim(low, high)
    for height, text, anchor in ((0.98, "gamed", "top"), (0.02, "not gamed", "bottom")):
        ax.annotate(text, (0.02, height), xycoords="axes fraction", va=anchor, color="0.35")


def _draw_course(
    ax: Axes,
    points: Sequence[GamingPoint],
    quantity: Literal["shortfall", "correlation"],
    titles: Titles,
) -> None:
    ax.set_xlabel(AXIS_TITLES["step"])
    known = [point for point in points if getattr(point, quantity) is not None]
    if not known:
        # With one image a prompt; an empty frame would look like a fault.
        ax.annotate("needs 2 images a prompt", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    for method, look in method_styles({point.method for point in known} - {BASE}).items():
        line = _course(known, method)
        intervals = [getattr(point, quantity) for point in line]
        bands = [(one.estimate, one.low, one.high) for one in intervals]
        steps, name = [point.step for point in line], method_title(method, titles)
        own = _own(line, method)
        drawn = draw_band(ax, steps, bands, look, label=name, markevery=own)
        hover(drawn, [f"{name}, {steps[i]:,} steps: {value_text(*bands[i], 2)}" for i in own])
    base = next((point for point in known if point.method == BASE), None)
    level = 0.0 if base is None else getattr(base, quantity).estimate
    draw_level(ax, level)


def _draw_plane(
    ax: Axes, points: Sequence[GamingPoint], benchmark: Benchmark | None, titles: Titles
) -> None:
    for method, look in method_styles({p.method for p in points} - {BASE}).items():
        line = _course(points, method)
        across, up = (
            [gain.estimate for gain in one] for one in zip(*map(_gains, line), strict=True)
        )
        title, own = method_title(method, titles), _own(line, method)
        (drawn,) = ax.plot(across, up, **look.hollow, markevery=own, label=title)
        hover(
            drawn, [f"{title}, {line[i].step:,} steps: {across[i]:.2f}, {up[i]:.2f}" for i in own]
        )
        # Crosses at every step would hide the course.
        score, truth = _gains(line[-1])
        ax.errorbar(
            score.estimate, truth.estimate,
            xerr=[[score.estimate - score.low], [score.high - score.estimate]],
            yerr=[[truth.estimate - truth.low], [truth.high - truth.estimate]],
            color=look.color, marker=look.marker, elinewidth=0.9, capsize=2,
        )  # fmt: skip
    ax.plot([0], [0], color="black", marker="D", linestyle="none", label=method_title(BASE))
    _fit(ax, points)
    if benchmark is not None:
        # Along this line a gain is as true as one that nobody trained for.
        ax.axline((0, 0), slope=benchmark.rate.estimate, **_CHOICE, zorder=1)
        sizes = " to ".join(str(count) for count in sorted({2, benchmark.counts[-1]}))
        ax.plot(
            benchmark.proxy_gains, benchmark.true_gains, **_CHOICE, marker="x", zorder=1,
            linestyle="none", label=f"Best of {sizes} base images",
        )  # fmt: skip


def _gains(point: GamingPoint) -> tuple[Interval, Interval]:
    return point.proxy_gain, point.true_gain


def _course(points: Sequence[GamingPoint], method: str) -> list[GamingPoint]:
    """A method's points; of a second stage from the end of its first on."""
    own = sorted((p for p in points if p.method == method), key=lambda p: p.step)
    earlier = first_stage(method)
    # From the base to the first snapshot nothing was measured.
    if not earlier:
        return own
    before = _course(points, earlier)[-1:]
    # Where it started is not known without the first stage.
    if not before or before[0].method != earlier:
        return own
    return [*before, *(replace(point, step=point.step + before[0].step) for point in own)]


def _own(line: Sequence[GamingPoint], method: str) -> list[int]:
    return [i for i, point in enumerate(line) if point.method == method]


def _fit(ax: Axes, points: Sequence[GamingPoint]) -> None:
    """Show the courses: a very long interval would squeeze them into a point."""
    ends = []
    for gains, (low, high) in zip(
        zip(*map(_gains, points), strict=True), (ax.get_xlim(), ax.get_ylim()), strict=True
    ):
        values = [gain.estimate for gain in gains]
        reach = max(values) - min(values) or high - low
        ends.append((max(low, min(values) - reach), min(high, max(values) + reach)))
    ax.set(xlim=ends[0], ylim=ends[1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5))
