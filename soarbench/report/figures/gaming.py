"""Figures about whether a gain is real: over-optimisation, and proxy against oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from soarbench.config.stages import first_stage
from soarbench.report.figures import style_and_curves as drawing
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.diagnostics import QUANTITIES, ROLES
from soarbench.report.numbers.gaming import GamingPoint
from soarbench.report.numbers.names import BASE, METHOD_TITLES, Titles, method_title
from soarbench.store.facts import MetricFacts

_NO_GAIN: dict[str, Any] = dict.fromkeys(
    ("proxy_gain", "proxy_low", "proxy_high", "oracle_gain", "oracle_low", "oracle_high",
     "gap", "gap_low", "gap_high"), 0.0,
)  # fmt: skip


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

    ``roles`` are the titles of the panels of judges, e.g. what was trained on, and ``marked`` the
    checkpoints that ``rule`` chose. ``ValueError`` without any point.
    """
    names = list(dict.fromkeys(point.metric for point in points))
    with drawing.style():
        figure, axes = drawing.panel_grid(len(names))
        for ax, name in zip(axes, names, strict=True):
            ax.set(title=roles.get(name) or ROLES[name], xlabel=drawing.AXIS_TITLES["step"])
            ax.set_ylabel(QUANTITIES.get(name) or facts[name].title)
            own = [point for point in points if point.metric == name]
            drawing.draw_panel(ax, own, marked=marked, titles=titles)
        title = f"{drawing.BAND_TITLE}; filled markers: checkpoint by rule {rule!r}"
        drawing.add_legend(figure, axes, title)
    return figure


def draw_gaming(
    points: Sequence[GamingPoint], facts: Mapping[str, MetricFacts], titles: Titles = METHOD_TITLES
) -> Figure:
    """Draw what was gained on a learned score against what was gained on its oracle.

    A row a learned score: the course of training in the plane of both gains, where below the
    diagonal the score gained more than the truth, and the gap over steps. ``ValueError`` without.
    """
    pairs = list(dict.fromkeys((p.task, p.proxy, p.oracle) for p in points))
    with drawing.style():
        figure, axes = drawing.panel_grid(2 * len(pairs), 2)
        for row, (task, proxy, oracle) in enumerate(pairs):
            own = [p for p in points if (p.task, p.proxy) == (task, proxy)]
            plane, gap = axes[2 * row : 2 * row + 2]
            gain = f"Gain in {facts[proxy].title} (SD of base)"
            plane.set(title=f"Task: {task}", xlabel=gain, ylabel=f"Gain in {facts[oracle].title}")
            _draw_plane(plane, own, titles)
            gap.set(title="Gain on the score alone", xlabel=drawing.AXIS_TITLES["step"])
            gap.set_ylabel("Score gain - oracle gain (SD)")
            for method, look in drawing.method_styles({p.method for p in own}).items():
                line = _course(own, method)
                bands = [(p.gap, p.gap_low, p.gap_high) for p in line]
                name, marks = method_title(method, titles), _own(line, method)
                steps = [p.step for p in line]
                drawing.draw_band(gap, steps, bands, look, label=name, markevery=marks)
            drawing.draw_zero(gap)
        title = "Bars and bands: 95 % intervals, paired with the base by image"
        drawing.add_legend(figure, axes, title)
    return figure


def _draw_plane(ax: Axes, points: Sequence[GamingPoint], titles: Titles) -> None:
    for method, look in drawing.method_styles({point.method for point in points}).items():
        line = _course(points, method)
        across, up = [p.proxy_gain for p in line], [p.oracle_gain for p in line]
        title, own = method_title(method, titles), _own(line, method)
        ax.plot(across, up, **look.hollow, markevery=own, label=title)
        # Crosses at every step would hide the course.
        end = line[-1]
        ax.errorbar(
            end.proxy_gain, end.oracle_gain,
            xerr=[[end.proxy_gain - end.proxy_low], [end.proxy_high - end.proxy_gain]],
            yerr=[[end.oracle_gain - end.oracle_low], [end.oracle_high - end.oracle_gain]],
            color=look.color, marker=look.marker, elinewidth=0.9, capsize=2,
        )  # fmt: skip
    ax.plot([0], [0], color="black", marker="D", linestyle="none", label=method_title(BASE))
    # On the diagonal all that the score gained is true.
    ax.axline((0, 0), slope=1, color="0.45", linewidth=0.8, zorder=1)
    _make_square(ax, [0.0, *(g for p in points for g in (p.proxy_gain, p.oracle_gain))])
    ax.annotate(
        "above: the truth gains more\nbelow: the score gains more", (0.03, 0.97),
        xycoords="axes fraction", va="top", fontsize=6.5, color="0.3", zorder=1,
    )  # fmt: skip


def _course(points: Sequence[GamingPoint], method: str) -> list[GamingPoint]:
    """A method's points after its start: the base, which gained nothing, or its first stage."""
    own = sorted((p for p in points if p.method == method), key=lambda p: p.step)
    earlier = first_stage(method)
    if not earlier:
        return [*(replace(one, method=BASE, step=0, **_NO_GAIN) for one in own[:1]), *own]
    before = _course(points, earlier)[-1:]
    return [*before, *(replace(p, step=p.step + q.step) for q in before for p in own)] or own


def _own(line: Sequence[GamingPoint], method: str) -> list[int]:
    return [i for i, point in enumerate(line) if point.method == method]


def _make_square(ax: Axes, gains: Sequence[float]) -> None:
    """The same range on both axes, so that the diagonal is one."""
    shown = (*ax.get_xlim(), *ax.get_ylim())
    # A very long interval leaves the panel: it would squeeze all courses into a point.
    reach = max(gains) - min(gains)
    low, high = max(min(shown), min(gains) - reach), min(max(shown), max(gains) + reach)
    if low < high:
        ax.set(xlim=(low, high), ylim=(low, high))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5))
