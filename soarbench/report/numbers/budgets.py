"""Methods at equal cost: along each method's way through training, not at its last step alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.config.stages import first_stage
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import compare, corrected, estimate
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel, Run
from soarbench.report.numbers.tables import Panels, TaskTable
from soarbench.stats.clusters import FloatArray

#: Step of a synthetic evaluation between two real ones; no training has it.
BETWEEN = -1
#: Shares of a level that count as having spent it all: counters are means over seeds, and floats.
_NEARLY = 1 - 1e-9


@dataclass(frozen=True, kw_only=True)
class Stop:
    """One evaluation on a method's way, and what had been spent by then, first stages included.

    Attributes:
        method: Whose evaluation: the base's, a first stage's, or the method's own.
        step: Its optimiser step in that stage.
        spent: Cumulative counters, ``step`` among them.
        value: Of the deciding metric.
    """

    method: str
    step: int
    spent: Mapping[str, float]
    value: float


def way(points: Sequence[CurvePoint], method: str) -> list[Stop]:
    """A method's evaluations from where its training started, in order.

    Args:
        points: Of one task and metric.
        method: Name.

    Returns:
        The base, the first stages' and its own; without the base where it was not evaluated.
    """
    own = sorted((one for one in points if one.method == method), key=lambda one: one.step)
    stops = [
        Stop(method=method, step=one.step, spent={"step": one.step, **one.spent}, value=one.value)
        for one in own
    ]
    if method == BASE or not stops:
        return stops
    # A second stage has paid for its first one too.
    earlier = way(points, first_stage(method) or BASE)
    if not earlier:
        return stops
    before = earlier[-1].spent
    return earlier + [
        dataclasses.replace(
            stop, spent={key: before[key] + n for key, n in stop.spent.items() if key in before}
        )
        for stop in stops
    ]


def lies_early(before: Stop, share: float) -> bool:
    """Whether a share of the way from a stop to the next is between the base and a snapshot.

    Learning curves are steepest and most concave there: a straight line put SOAR at SFT's cost
    .042 behind SFT on the laboratory's aesthetic task, where it measures .100 ahead.
    """
    return before.method == BASE and 0 < share < _NEARLY


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place between two stops of a way.

    Attributes:
        before: The last stop at or before it.
        after: The next one; the same where the place is a stop.
        share: Of the way from ``before`` to ``after``; 0..1.
    """

    before: Stop
    after: Stop
    share: float

    @property
    def is_early(self) -> bool:
        """Whether it lies between the base and the first snapshot, where nothing was measured."""
        return lies_early(self.before, self.share)

    def spent(self, counter: str) -> float | None:
        """A counter at this place, linear between the stops; None where it was not logged."""
        first, last = self.before.spent.get(counter), self.after.spent.get(counter)
        if first is None or last is None:
            return None
        return first + self.share * (last - first)


def place_at(stops: Sequence[Stop], counter: str, level: float) -> Place | None:
    """Where a way has spent ``level`` of a counter; None beyond its ends."""
    spent = [stop.spent.get(counter) for stop in stops]
    # Training that did not log a counter has no place on its axis.
    if not stops or any(amount is None for amount in spent):
        return None
    reached = np.array([float(amount or 0.0) for amount in spent])
    if level < reached[0] or level * _NEARLY > reached[-1]:
        return None
    after = int(np.searchsorted(reached, min(level, reached[-1])))
    before = max(after - 1, 0)
    width = reached[after] - reached[before]
    share = (level - reached[before]) / width if width > 0 else 1.0
    return Place(before=stops[before], after=stops[after], share=min(share, 1.0))


@dataclass(frozen=True, kw_only=True)
class MatchedTable:
    """All methods of a task at the same amount of one counter.

    Attributes:
        counter: What is equal, e.g. ``forward_equivalents``.
        level: How much of it.
        methods: Whose whole training that is.
        early: Who spent it before the first snapshot, where nothing is interpolated.
        table: The numbers; a method that never spent as much has none, nor one that is early, nor
            one that was still in its first stage, which is a row itself.
    """

    counter: str
    level: float
    methods: tuple[str, ...]
    early: tuple[str, ...]
    table: TaskTable


def matched_tables(
    tables: Sequence[TaskTable], panels: Panels, points: Sequence[CurvePoint], counter: str
) -> list[MatchedTable]:
    """Compare the methods of every task at what each of them spent in all.

    Between two snapshots every image's score is taken as linear in the counter; between the base
    and the first snapshot it is not, and nothing is said.

    Args:
        tables: At the last steps.
        panels: All scores.
        points: Of the deciding metrics, with what was spent.
        counter: What is made equal.

    Returns:
        By task, then level; only levels that two trained methods reached.
    """
    matched = []
    for table in tables:
        own = [one for one in points if (one.task, one.metric) == (table.task, table.final_metric)]
        ways = {row.method: way(own, row.method) for row in table.rows}
        totals: dict[float, list[str]] = {}
        for method, stops in ways.items():
            if method != BASE and stops and stops[-1].spent.get(counter):
                totals.setdefault(stops[-1].spent[counter], []).append(method)
        for level, methods in sorted(totals.items()):
            places = {name: place_at(stops, counter, level) for name, stops in ways.items()}
            reached = {
                name: place
                for name, place in places.items()
                if place and name != BASE and place.after.method == name
            }
            measured = {name: place for name, place in reached.items() if not place.is_early}
            # Beyond the baseline's own cost, who spent it all is what there is to compare with.
            baseline = table.baseline if table.baseline in measured else methods[0]
            # One method alone at a level is compared with nobody.
            if len(reached) > 1:
                matched.append(
                    MatchedTable(
                        counter=counter,
                        level=level,
                        methods=tuple(methods),
                        early=tuple(name for name in reached if name not in measured),
                        table=_matched(
                            dataclasses.replace(table, baseline=baseline),
                            panels,
                            measured,
                            level,
                            counter,
                        ),
                    )
                )
    return matched


def _matched(
    table: TaskTable, panels: Panels, places: Mapping[str, Place], level: float, counter: str
) -> TaskTable:
    """The table with every method at its place."""
    moved = {
        name: _moved(panels[table.task, name], places)
        for name in table.metrics
        if (table.task, name) in panels
    }
    # Holm's correction is over this table, as that at the last steps is over its own.
    family = {}
    for name, panel in moved.items():
        for method in places:
            if method != table.baseline and table.baseline in places:
                one = compare(panel, (method, BETWEEN), (table.baseline, BETWEEN))
                if one is not None:
                    family[method, name] = one
    comparisons = corrected(family)
    rows = [
        dataclasses.replace(
            row,
            budget=_spent(places[row.method]) | {counter: level} if row.method in places else {},
            estimates={
                name: estimate(panel, row.method, BETWEEN)
                for name, panel in moved.items()
                if panel.seeds(row.method, BETWEEN)
            },
            comparisons={name: one for (of, name), one in comparisons.items() if of == row.method},
        )
        for row in table.rows
        if row.method != BASE
    ]
    return dataclasses.replace(table, rows=tuple(rows))


def _spent(place: Place) -> dict[str, float]:
    """All counters at a place, under the names of the budget's columns."""
    names = {"optimizer_steps": "step"} | {name: name for name in COUNTERS}
    spent = {name: place.spent(counter) for name, counter in names.items()}
    return {name: amount for name, amount in spent.items() if amount is not None}


def _moved(panel: Panel, places: Mapping[str, Place]) -> Panel:
    """A panel whose methods were evaluated at their places."""
    values = {
        Run(method, seed, BETWEEN): scores
        for method, place in places.items()
        for seed, scores in _between(panel, place).items()
    }
    return dataclasses.replace(panel, values=values, reasons={run: {} for run in values})


def _between(panel: Panel, place: Place) -> dict[int, FloatArray]:
    """Every image's score at a place, by training seed; (N,) each."""
    scores = {}
    for seed in panel.seeds(place.after.method, place.after.step):
        ends = [_scores(panel, stop, seed) for stop in (place.before, place.after)]
        if ends[0] is not None and ends[1] is not None:
            scores[seed] = (1 - place.share) * ends[0] + place.share * ends[1]
    return scores


def _scores(panel: Panel, stop: Stop, seed: int) -> FloatArray | None:
    """One seed's scores at a stop; the base's stand for every seed."""
    if stop.method == BASE:
        seed = next(iter(panel.seeds(BASE, stop.step)), seed)
    return panel.values.get(Run(stop.method, seed, stop.step))
