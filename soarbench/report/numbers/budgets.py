"""Methods at equal cost: along each method's way through training, not at its last step alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.config.stages import first_stage
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import final_comparisons, final_estimates
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel, Run
from soarbench.report.numbers.tables import Panels, TaskTable

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
    """A method's evaluations in order, from points of one task and metric.

    The base's, the first stages' and its own; without the base where it was not evaluated.
    """
    own = sorted((one for one in points if one.method == method), key=lambda one: one.step)
    stops = [
        Stop(method=method, step=one.step, spent={"step": one.step, **one.spent}, value=one.value)
        for one in own
    ]
    if method == BASE or not stops:
        return stops
    earlier = way(points, first_stage(method) or BASE)
    if not earlier:
        return stops
    # A second stage has paid for its first one too.
    before = earlier[-1].spent
    return earlier + [
        dataclasses.replace(
            stop, spent={key: before[key] + n for key, n in stop.spent.items() if key in before}
        )
        for stop in stops
    ]


def trained_ways(table: TaskTable, points: Sequence[CurvePoint]) -> dict[str, list[Stop]]:
    """The way of every trained method of a table, by the metric that decides it."""
    own = [one for one in points if (one.task, one.metric) == (table.task, table.final_metric)]
    return {row.method: way(own, row.method) for row in table.rows if row.method != BASE}


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
        # Learning curves are steepest and most concave there: a straight line put SOAR at SFT's
        # cost .042 behind SFT on the laboratory's aesthetic task, where it measures .100 ahead.
        return self.before.method == BASE and 0 < self.share < _NEARLY

    def spent(self, counter: str) -> float | None:
        """A counter at this place, linear between the stops; None where it was not logged."""
        first, last = self.before.spent.get(counter), self.after.spent.get(counter)
        if first is None or last is None:
            return None
        return first + self.share * (last - first)


def place_at(stops: Sequence[Stop], counter: str, level: float) -> Place | None:
    """Where a way has spent ``level`` of a counter; None beyond its ends."""
    # Training that did not log a counter has no place on its axis.
    if not stops or any(counter not in stop.spent for stop in stops):
        return None
    reached = np.array([float(stop.spent[counter]) for stop in stops])
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
        methods: Whose whole training the level is.
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
    """Compare the methods of every task at what each of them spent in all of a counter.

    By task, then level; only levels that two trained methods reached. ``points`` are of the
    deciding metrics. Between two snapshots every image's score is taken as linear in the counter.
    """
    matched = []
    for table in tables:
        for level, methods, reached in _levels(table, points, counter):
            measured = {name: place for name, place in reached.items() if not place.is_early}
            # Beyond the baseline's own cost, who spent it all is what there is to compare with.
            baseline = table.baseline if table.baseline in measured else methods[0]
            own = dataclasses.replace(table, baseline=baseline)
            matched.append(
                MatchedTable(
                    counter=counter,
                    level=level,
                    methods=tuple(methods),
                    early=tuple(name for name in reached if name not in measured),
                    table=_matched(own, panels, measured, {counter: level}),
                )
            )
    return matched


def _levels(
    table: TaskTable, points: Sequence[CurvePoint], counter: str
) -> Iterator[tuple[float, list[str], dict[str, Place]]]:
    """What methods spent in all, whose that is, and the places of all that spent as much."""
    ways = trained_ways(table, points)
    totals: dict[float, list[str]] = {}
    for method, stops in ways.items():
        if stops and (total := stops[-1].spent.get(counter)):
            totals.setdefault(total, []).append(method)
    for level, methods in sorted(totals.items()):
        places = {name: place_at(stops, counter, level) for name, stops in ways.items()}
        # In its first stage a method is that stage's, which has a row of its own.
        reached = {n: place for n, place in places.items() if place and place.after.method == n}
        # One method alone at a level is compared with nobody.
        if len(reached) > 1:
            yield level, methods, reached


def _matched(
    table: TaskTable, panels: Panels, places: Mapping[str, Place], level: Mapping[str, float]
) -> TaskTable:
    """The table with every method at its place."""
    moved = {name: _moved(panels[table.task, name], places) for name in table.metrics}
    # Holm's correction is over this table, as that at the last steps is over its own.
    comparisons = final_comparisons(moved, places, table.baseline, table.final_metric)
    rows = [
        dataclasses.replace(
            row,
            # Exactly the level, which rounding along the way may miss.
            budget={**_spent(places[row.method]), **level} if row.method in places else {},
            estimates=final_estimates(moved, row.method),
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
    """A panel whose methods were evaluated at their places, every image between two scores."""
    values = {}
    for method, place in places.items():
        ends = [(stop.method, stop.step) for stop in (place.before, place.after)]
        for seed, (before, after) in panel.pairs(ends[0], ends[1]).items():
            between = (1 - place.share) * before + place.share * after
            values[Run(method, seed, BETWEEN)] = between
    return dataclasses.replace(panel, values=values, reasons={run: {} for run in values})
