"""What does each method need to reach a value of the deciding metric?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.report.numbers.budgets import Place, Stop, trained_ways
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import labelled_rng
from soarbench.report.numbers.panels import Panel
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
        needed: Steps and counters at the crossing, linear between snapshots; empty where the
            threshold is not reached, or is crossed between the base and the first snapshot.
        low: Steps at the lower end of the 95 % interval over prompts; inf where not even there,
            None when prompts could not be resampled or it lies before the first snapshot.
        high: The upper end; inf where the threshold may not be reached at all.
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
    low: float | None
    high: float | None
    share: float | None

    @property
    def is_early(self) -> bool:
        """Whether it or an end of its interval lies between the base and the first snapshot."""
        ends = () if self.share is None else (self.low, self.high)
        return None in ends or (self.is_reached and not self.needed)


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
        ways = trained_ways(table, points)
        given = thresholds.get(table.final_metric)
        goal = ways.get(table.baseline, [])[-1:]
        if panel is not None and (given is not None or goal):
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
    spread = _spread(panel, stops, given, goal)
    ends: list[float | None] = [None, None]
    if spread is not None:
        # Nearest: between a step and 'never' (inf) there is no number.
        quantiles = np.quantile(spread, (0.025, 0.975), method="nearest")
        ends = [_at(stops, "step", float(end)) for end in quantiles]
    logged = [axis for axis in AXES if all(axis in stop.spent for stop in stops)]
    needed = {axis: _at(stops, axis, place) for axis in logged if np.isfinite(place)}
    return Crossing(
        task=panel.task,
        metric=panel.evaluator,
        facts=panel.facts,
        threshold=threshold,
        source="chosen" if given is not None else f"where {table.title(table.baseline)} ends",
        method=method,
        title=table.title(method),
        is_reached=not np.isinf(place),
        needed={axis: amount for axis, amount in needed.items() if amount is not None},
        low=ends[0],
        high=ends[1],
        share=None if spread is None else float(np.isfinite(spread).mean()),
    )


def _at(stops: Sequence[Stop], axis: str, index: float) -> float | None:
    """An axis at a fractional index of the stops; inf stays, None before the first snapshot."""
    if np.isinf(index):
        return index
    before = int(index)
    after = min(before + 1, len(stops) - 1)
    place = Place(before=stops[before], after=stops[after], share=index - before)
    return None if place.is_early else place.spent(axis)


def _spread(
    panel: Panel, stops: Sequence[Stop], given: float | None, goal: Sequence[Stop]
) -> FloatArray | None:
    """The crossing in resamples of the prompts, the threshold's own spread included. -> (R,)."""
    try:
        scores = [panel.scores(stop.method, stop.step) for stop in (*stops, *goal)]
    except ValueError:
        return None  # an evaluation without a scored image
    if len({one.num_prompts for one in scores}) > 1:
        return None  # failed measurements took whole prompts out of some evaluations
    # One label for all methods: the same resamples, so that their crossings compare.
    rng = labelled_rng(panel.task, panel.evaluator, "threshold")
    weights = prompt_weights(scores[0].strata, NUM_RESAMPLES, rng)
    means = np.stack([one.seed_means(weights).mean(axis=1) for one in scores], axis=1)
    curves = means[:, : len(stops)]
    # Where the baseline ends is measured too, and resampled with the curves.
    threshold = means[:, -1] if given is None else np.full(NUM_RESAMPLES, given)
    higher = panel.facts.higher_is_better
    return first_crossing(curves, threshold, higher_is_better=higher)
