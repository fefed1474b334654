"""What does each method need to reach a value of the deciding metric?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.report.numbers.budgets import Stop, trained_rows, way
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import labelled_rng
from soarbench.report.numbers.metrics import method_title, metric_of
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.tables import Panels, TaskTable
from soarbench.stats import first_crossing
from soarbench.stats.bootstrap import prompt_weights
from soarbench.stats.clusters import FloatArray

NUM_RESAMPLES = 1000
AXES = ("step", *COUNTERS)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where a method first reaches a threshold.

    Attributes:
        task: Name.
        metric: The deciding one.
        threshold: The value to reach.
        source: Where the threshold comes from, in words.
        method: Name.
        needed: Steps and counters at the crossing, linear between evaluations; empty where the
            threshold is not reached.
        low: Steps at the lower end of the 95 % interval over prompts; inf where not even there.
        high: The upper end; inf where the threshold may not be reached at all.
        share: Of the resamples in which it is reached; None when prompts could not be resampled.
    """

    task: str
    metric: str
    threshold: float
    source: str
    method: str
    needed: Mapping[str, float]
    low: float | None
    high: float | None
    share: float | None

    @property
    def is_reached(self) -> bool:
        """Whether it is, by the scores as they are."""
        return bool(self.needed)


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
    found: list[Crossing] = []
    for table in tables:
        panel = panels.get((table.task, table.final_metric))
        own = [one for one in points if (one.task, one.metric) == (table.task, table.final_metric)]
        ways = {row.method: way(own, row.method) for row in trained_rows(table)}
        given = thresholds.get(table.final_metric)
        goal = ways.get(table.baseline, [])[-1:]
        if panel is None or (given is None and not goal):
            continue
        source = "chosen" if given is not None else f"where {method_title(table.baseline)} ends"
        threshold = goal[0].value if given is None else given
        for method, stops in ways.items():
            if stops:
                spread = _spread(panel, stops, given, goal)
                found.append(_crossing(panel, method, stops, threshold, source, spread))
    return found


def _crossing(
    panel: Panel,
    method: str,
    stops: Sequence[Stop],
    threshold: float,
    source: str,
    spread: FloatArray | None,
) -> Crossing:
    higher = metric_of(panel.evaluator).higher_is_better
    values = np.array([[stop.value for stop in stops]])
    place = float(first_crossing(values, np.array([threshold]), higher_is_better=higher)[0])
    steps = None if spread is None else _at(stops, "step", spread)
    quantiles = None if steps is None else np.quantile(steps, (0.025, 0.975), method="nearest")
    return Crossing(
        task=panel.task,
        metric=panel.evaluator,
        threshold=threshold,
        source=source,
        method=method,
        needed={} if np.isinf(place) else _needed(stops, place),
        low=None if quantiles is None else float(quantiles[0]),
        high=None if quantiles is None else float(quantiles[1]),
        share=None if steps is None else float(np.isfinite(steps).mean()),
    )


def _needed(stops: Sequence[Stop], place: float) -> dict[str, float]:
    """Steps and counters at a fractional index of the stops."""
    logged = [axis for axis in AXES if all(axis in stop.spent for stop in stops)]
    return {axis: float(_at(stops, axis, np.array([place]))[0]) for axis in logged}


def _at(stops: Sequence[Stop], axis: str, places: FloatArray) -> FloatArray:
    """An axis at fractional indices (R,) of the stops; inf stays. -> (R,)."""
    amounts = np.array([stop.spent[axis] for stop in stops])
    inside = np.interp(np.where(np.isinf(places), 0, places), np.arange(len(stops)), amounts)
    return np.where(np.isinf(places), np.inf, inside)


def _spread(
    panel: Panel, stops: Sequence[Stop], given: float | None, goal: Sequence[Stop]
) -> FloatArray | None:
    """The crossing in resamples of the prompts, the threshold's own spread included. -> (R,)."""
    try:
        scores = [panel.scores(stop.method, stop.step) for stop in (*stops, *goal)]
    except ValueError:
        return None
    if len({one.num_prompts for one in scores}) > 1:
        return None  # failed measurements took whole prompts out of some evaluations
    rng = labelled_rng(panel.task, panel.evaluator, "threshold")
    weights = prompt_weights(scores[0].strata, NUM_RESAMPLES, rng)
    means = np.stack([one.seed_means(weights).mean(axis=1) for one in scores], axis=1)
    curves = means[:, : len(stops)]
    threshold = means[:, -1] if given is None else np.full(NUM_RESAMPLES, given)
    higher = metric_of(panel.evaluator).higher_is_better
    return first_crossing(curves, threshold, higher_is_better=higher)
