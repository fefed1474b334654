"""What does each method need to reach a value of the deciding metric?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from soarbench.report.numbers.budgets import Place, Stop, is_gap, is_whole, trained_ways
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import labelled_rng
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel, Run
from soarbench.report.numbers.tables import Panels, TaskTable
from soarbench.stats.bootstrap import prompt_weights
from soarbench.stats.clusters import FloatArray
from soarbench.store.facts import MetricFacts

NUM_RESAMPLES = 1000
AXES = ("step", *COUNTERS)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where a method first reaches a threshold.

    Attributes:
        metric: The deciding one, which ``facts`` are about.
        source: Where the threshold comes from, in words.
        title: Of the method.
        is_reached: Whether it is, by the scores as they are.
        needed: Steps and counters at the crossing; empty where the threshold is not reached, or
            somewhere ``between``.
        between: Steps and counters at the neighbours of a crossing that is in a gap: between the
            base and the first snapshot, or between two that differ too much for a straight line.
        low: Steps at the lower end of the 95 % interval over prompts and seeds, at the neighbour
            before where it is in a gap; inf where not even there, None when prompts could not be
            resampled.
        high: The upper end, at the neighbour after; inf where the threshold may not be reached.
        share: Of the resamples in which it is reached; None when prompts could not be resampled.
    """

    task: str
    metric: str
    facts: MetricFacts
    threshold: float
    source: str
    method: str
    title: str
    is_reached: bool
    needed: Mapping[str, float]
    between: Mapping[str, tuple[float, float]]
    low: float | None
    high: float | None
    share: float | None


@dataclass(frozen=True)
class _Course:
    """A method's stops, and which of the ways between them are gaps."""

    stops: Sequence[Stop]
    gaps: Sequence[bool]

    def around(self, axis: str, index: float) -> tuple[float, float]:
        """An axis at a fractional index: twice the same, or at its neighbours in a gap."""
        if np.isinf(index):
            return index, index
        before = min(int(index), len(self.stops) - 1)
        share = index - before
        first, last = (self.stops[n].spent[axis] for n in (before, before + (share > 0)))
        if share > 0 and self.gaps[before]:
            return first, last
        place = first + share * (last - first)
        return place, place


def first_crossing(
    values: FloatArray, threshold: FloatArray, *, higher_is_better: bool = True
) -> FloatArray:
    """Where curves first reach a threshold: a fractional index, linear between points; (R,).

    Args:
        values: Curves; (R, K). The index is 0..K-1, and inf where the curve never reaches it.
        threshold: Of each curve; (R,).
        higher_is_better: Which way a curve must go to reach it.
    """
    sign = 1.0 if higher_is_better else -1.0
    gap = sign * (values - threshold[:, None])
    reached = gap >= 0
    index = reached.argmax(axis=1)
    rows = np.arange(len(values))
    before, after = gap[rows, np.maximum(index - 1, 0)], gap[rows, index]
    # A curve that begins beyond the threshold has no rise to divide by.
    rise = np.where(after > before, after - before, 1.0)
    position = np.where(index > 0, index - after / rise, 0.0)
    return np.where(reached.any(axis=1), position, np.inf)


def crossings(
    tables: Sequence[TaskTable],
    panels: Panels,
    points: Sequence[CurvePoint],
    thresholds: Mapping[str, float],
) -> list[Crossing]:
    """Every method's crossing, by task and method; none for a task without a threshold.

    ``thresholds`` are by metric; where there is none, it is the baseline's last value. ``points``
    are of the deciding metrics.
    """
    reached: list[Crossing] = []
    for table in tables:
        panel = panels.get((table.task, table.final_metric))
        ways = trained_ways(table, panels, points)
        given = thresholds.get(table.final_metric)
        goal = ways.get(table.baseline, [])[-1:]
        # Where the baseline ends is not where its last number is.
        is_known = panel is not None and is_whole(panel, table.baseline, goal)
        if panel is not None and (given is not None or is_known):
            reached += [
                _crossing(table, panel, method, stops, given, goal)
                for method, stops in ways.items()
                if stops
            ]
    return reached


def _crossing(
    table: TaskTable,
    panel: Panel,
    method: str,
    stops: Sequence[Stop],
    given: float | None,
    goal: Sequence[Stop],
) -> Crossing:
    """Where a method reaches the given value, or else the ``goal``, the baseline's last stop."""
    threshold = goal[0].value if given is None else given
    values = np.array([[stop.value for stop in stops]])
    higher = panel.facts.higher_is_better
    place = float(first_crossing(values, np.array([threshold]), higher_is_better=higher)[0])
    course = _Course(stops, _gaps(panel, stops))
    spread = _spread(panel, stops, given, goal)
    low, high = None, None
    if spread is not None:
        # Nearest: between a step and 'never' (inf) there is no number.
        ends = np.quantile(spread, (0.025, 0.975), method="nearest")
        # Outwards to what was measured, where an end is in a gap.
        low, high = (course.around("step", float(end))[side] for side, end in enumerate(ends))
    logged = [axis for axis in AXES if all(axis in stop.spent for stop in stops)]
    around = {axis: course.around(axis, place) for axis in logged if np.isfinite(place)}
    is_in_gap = any(first != last for first, last in around.values())
    return Crossing(
        task=panel.task,
        metric=panel.evaluator,
        facts=panel.facts,
        threshold=threshold,
        source="chosen" if given is not None else f"where {table.title(table.baseline)} ends",
        method=method,
        title=table.title(method),
        is_reached=not np.isinf(place),
        needed={} if is_in_gap else {axis: first for axis, (first, _) in around.items()},
        between=around if is_in_gap else {},
        low=low,
        high=high,
        share=None if spread is None else float(np.isfinite(spread).mean()),
    )


def _gaps(panel: Panel, stops: Sequence[Stop]) -> list[bool]:
    """Between which neighbours nothing is interpolated."""
    pairs = list(pairwise(stops))
    return [is_gap(panel, Place(before=one, after=other, share=0.5)) for one, other in pairs]


def _spread(
    panel: Panel, stops: Sequence[Stop], given: float | None, goal: Sequence[Stop]
) -> FloatArray | None:
    """The crossing in resamples of prompts and seeds, the threshold's own included. -> (R,).

    None where there is no resample of all that is needed.
    """
    try:
        scores = [panel.scores(stop.method, stop.step) for stop in (*stops, *goal)]
    except ValueError:
        return None  # an evaluation without a scored image
    if len({panel.scored_prompts(stop.method, stop.step) for stop in (*stops, *goal)}) > 1:
        return None  # failed measurements took whole prompts out of some evaluations
    # One label for all methods: the same resamples, so that their crossings compare.
    rng = labelled_rng(panel.task, panel.evaluator, "threshold")
    weights = prompt_weights(scores[0].strata, NUM_RESAMPLES, rng)
    seeds = sorted({run.seed for run in panel.values if run.method != BASE})
    # Seeds are resampled as prompts are: what every method shares of one stays together.
    drawn = dict(
        zip(seeds, prompt_weights(np.zeros(len(seeds), int), NUM_RESAMPLES, rng).T, strict=True)
    )
    means = np.stack(
        [
            _mean_over_seeds(one.seed_means(weights), panel.runs(stop.method, stop.step), drawn)
            for one, stop in zip(scores, (*stops, *goal), strict=True)
        ],
        axis=1,
    )
    # Of a method with fewer seeds than others none may be drawn.
    means = means[np.isfinite(means).all(axis=1)]
    if not len(means):
        return None  # a method and the baseline of one seed each, and never of the same
    curves = means[:, : len(stops)]
    # Where the baseline ends is measured too, and resampled with the curves.
    threshold = means[:, -1] if given is None else np.full(len(means), given)
    higher = panel.facts.higher_is_better
    return first_crossing(curves, threshold, higher_is_better=higher)


def _mean_over_seeds(
    means: FloatArray, runs: Sequence[Run], drawn: Mapping[int, FloatArray]
) -> FloatArray:
    """Resampled means, (R, S), over the seeds that each resample drew; nan where none. -> (R,)."""
    # The base was never trained, and is the same beside every seed.
    once = np.ones(len(means))
    own = [once if run.method == BASE else drawn[run.seed] for run in runs]
    weights = np.stack(own, axis=1)
    drawings = weights.sum(axis=1)
    mean: FloatArray = np.divide(
        (weights * means).sum(axis=1), drawings, out=np.full(len(means), np.nan), where=drawings > 0
    )
    return mean
