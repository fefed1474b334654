"""What does each method need to reach a value of the deciding metric?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.report.numbers.budgets import Stop, lies_early, way
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import labelled_rng
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.tables import Panels, TaskTable
from soarbench.stats import first_crossing
from soarbench.stats.bootstrap import prompt_weights
from soarbench.stats.clusters import FloatArray
from soarbench.store.facts import MetricFacts

NUM_RESAMPLES = 1000
AXES = ("step", *COUNTERS)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where a method first reaches a threshold.

    Attributes:
        task: Name.
        metric: The deciding one.
        facts: About it.
        threshold: The value to reach.
        source: Where the threshold comes from, in words.
        method: Name.
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


def crossings(
    tables: Sequence[TaskTable],
    panels: Panels,
    points: Sequence[CurvePoint],
    thresholds: Mapping[str, float],
) -> list[Crossing]:
    """Find every method's crossing in every task.

    Args:
        tables: At the last steps.
        panels: All scores.
        points: Of the deciding metrics, with what was spent.
        thresholds: By metric; where there is none, the baseline's last value is the threshold.

    Returns:
        By task and method; none for a task without a threshold.
    """
    reached: list[Crossing] = []
    for table in tables:
        panel = panels.get((table.task, table.final_metric))
        own = [one for one in points if (one.task, one.metric) == (table.task, table.final_metric)]
        ways = {row.method: way(own, row.method) for row in table.rows if row.method != BASE}
        given = thresholds.get(table.final_metric)
        goal = ways.get(table.baseline, [])[-1:]
        if panel is None or (given is None and not goal):
            continue
        source = "chosen" if given is not None else f"where {table.title(table.baseline)} ends"
        threshold = goal[0].value if given is None else given
        for method, stops in ways.items():
            if stops:
                spread = _spread(panel, stops, given, goal)
                name = (method, table.title(method))
                reached.append(_crossing(panel, name, stops, threshold, source, spread))
    return reached


def _crossing(
    panel: Panel,
    name: tuple[str, str],
    stops: Sequence[Stop],
    threshold: float,
    source: str,
    spread: FloatArray | None,
) -> Crossing:
    higher = panel.facts.higher_is_better
    values = np.array([[stop.value for stop in stops]])
    place = float(first_crossing(values, np.array([threshold]), higher_is_better=higher)[0])
    ends: list[float | None] = [None, None]
    if spread is not None:
        # Nearest: between a step and 'never' (inf) there is no number.
        quantiles = np.quantile(spread, (0.025, 0.975), method="nearest")
        ends = [_at(stops, "step", float(end)) for end in quantiles]
    return Crossing(
        task=panel.task,
        metric=panel.evaluator,
        facts=panel.facts,
        threshold=threshold,
        source=source,
        method=name[0],
        title=name[1],
        is_reached=not np.isinf(place),
        needed={} if np.isinf(place) else _needed(stops, place),
        low=ends[0],
        high=ends[1],
        share=None if spread is None else float(np.isfinite(spread).mean()),
    )


def _needed(stops: Sequence[Stop], place: float) -> dict[str, float]:
    """Steps and counters at a fractional index of the stops; empty before the first snapshot."""
    logged = [axis for axis in AXES if all(axis in stop.spent for stop in stops)]
    amounts = {axis: _at(stops, axis, place) for axis in logged}
    return {axis: amount for axis, amount in amounts.items() if amount is not None}


def _at(stops: Sequence[Stop], axis: str, place: float) -> float | None:
    """An axis at a fractional index of the stops; inf stays, None before the first snapshot."""
    if np.isinf(place):
        return float(place)
    before = int(place)
    if lies_early(stops[before], place - before):
        return None
    amounts = [stop.spent[axis] for stop in stops]
    return float(np.interp(place, np.arange(len(stops)), amounts))


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
