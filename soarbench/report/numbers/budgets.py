"""Methods at equal cost: along each method's way through training, not at its last step alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from soarbench.config.stages import first_stage
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import (
    Comparison,
    Estimate,
    Targets,
    decided,
    estimate,
    final_comparisons,
    final_estimates,
)
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel, Run
from soarbench.report.numbers.tables import MethodRow, Panels, TaskTable
from soarbench.store.cells import Cell

#: Stands in the place of a number that nobody measured, and that is no straight line's either.
NOT_MEASURED = "not measured"
#: Step of a synthetic evaluation between two real ones; no training has it.
BETWEEN = -1
#: What counts as the same cost where no snapshot is nearer than half an update: this share.
_NEAR = 0.025
#: Two neighbours that differ by more of the narrower one's 95 % interval have no line between them.
_STEEP = 0.25


@dataclass(frozen=True, kw_only=True)
class Stop:
    """One evaluation on a method's way, and what had been spent by then, first stages included.

    Attributes:
        method: Whose evaluation: the base's, a first stage's, or the method's own.
        step: Its optimiser step in that stage.
        spent: Cumulative counters, ``step`` among them.
        value: Of the deciding metric.
        unit: Updates at whose multiples snapshots are compared (``baselines.config.cost_unit``).
    """

    method: str
    step: int
    spent: Mapping[str, float]
    value: float
    unit: int = 1


def way(points: Sequence[CurvePoint], method: str) -> list[Stop]:
    """A method's evaluations in order, from points of one task and metric.

    The base's, the first stages' and its own; without the base where it was not evaluated.
    """
    own = sorted((one for one in points if one.method == method), key=lambda one: one.step)
    stops = [
        Stop(
            method=method,
            step=one.step,
            spent={"step": one.step, **one.spent},
            value=one.value,
            unit=one.unit,
        )
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
        replace(
            stop, spent={key: before[key] + n for key, n in stop.spent.items() if key in before}
        )
        for stop in stops
    ]


def trained_ways(
    table: TaskTable, panels: Panels, points: Sequence[CurvePoint]
) -> dict[str, list[Stop]]:
    """The way of every trained method of a table, by the metric that decides it.

    Empty where the end of an earlier stage has no number, and so no stop, and its cost is unknown.
    """
    panel = panels.get((table.task, table.final_metric))
    if panel is None:
        return {}
    own = [one for one in points if (one.task, one.metric) == (table.task, table.final_metric)]
    ways = {row.method: way(own, row.method) for row in table.rows if row.method != BASE}
    # A stage that is not here at all has no steps; of such the table's notes speak.
    cut = {name for name in ways if panel.steps(name) and not is_whole(panel, name, ways[name])}
    return {name: [] if cut & {*_earlier(name)} else stops for name, stops in ways.items()}


def _earlier(method: str) -> list[str]:
    """The methods whose training a later stage goes on from."""
    before = first_stage(method)
    return [before, *_earlier(before)] if before else []


def is_whole(panel: Panel, method: str, stops: Sequence[Stop]) -> bool:
    """Whether a way ends where the method did, and not where its last number is."""
    last = (method, max(panel.steps(method), default=None))
    return bool(stops) and (stops[-1].method, stops[-1].step) == last


def asked_costs(cells: Iterable[Cell]) -> dict[str, list[float]]:
    """By task, the forward equivalents at which its cells were to be compared, ascending."""
    asked: dict[str, set[float]] = {}
    for cell in cells:
        # Older exports do not say, and were asked for none.
        costs = cell.config.get("costs", ())
        asked.setdefault(cell.task, set()).update(costs if isinstance(costs, list) else ())
    return {task: sorted(costs) for task, costs in asked.items()}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place on a way.

    Attributes:
        before: The last stop at or before it.
        after: The next one; the same where it was measured.
        share: Of the way from ``before`` to ``after``; 0..1.
    """

    before: Stop
    after: Stop
    share: float

    @property
    def is_measured(self) -> bool:
        """Whether it is a stop."""
        return self.before == self.after

    @property
    def is_early(self) -> bool:
        """Whether it lies between the base and the first snapshot, where nothing was measured."""
        # Learning curves are steepest and most concave there: a straight line put SOAR at SFT's
        # cost .042 behind SFT on the laboratory's aesthetic task, where it measures .100 ahead.
        return self.before.method == BASE and not self.is_measured

    def spent(self, counter: str) -> float | None:
        """A counter at this place, linear between the stops; None where it was not logged."""
        first, last = self.before.spent.get(counter), self.after.spent.get(counter)
        if first is None or last is None:
            return None
        return first + self.share * (last - first)


def place_at(stops: Sequence[Stop], counter: str, level: float) -> Place | None:
    """Where a way has spent ``level`` of a counter; None beyond its ends.

    The nearest stop, if it is within half an update, or half of those whose multiples are compared,
    or 2.5 % of the level.
    """
    # Training that did not log a counter has no place on its axis.
    if not stops or any(counter not in stop.spent for stop in stops):
        return None
    reached = np.array([float(stop.spent[counter]) for stop in stops])
    nearest = int(np.abs(reached - level).argmin())
    half = stops[nearest].unit * _update(stops, nearest, counter) / 2
    if abs(reached[nearest] - level) <= max(half, _NEAR * level):
        return Place(before=stops[nearest], after=stops[nearest], share=0.0)
    if not reached[0] < level < reached[-1]:
        return None
    after = int(np.searchsorted(reached, level))
    width = reached[after] - reached[after - 1]
    share = float((level - reached[after - 1]) / width)
    return Place(before=stops[after - 1], after=stops[after], share=share)


def _update(stops: Sequence[Stop], index: int, counter: str) -> float:
    """What an update adds to a counter on the way to a stop; 0 at the first one."""
    if index == 0:
        return 0.0
    first, last = stops[index - 1].spent, stops[index].spent
    return (last[counter] - first[counter]) / max(last["step"] - first["step"], 1.0)


def is_gap(panel: Panel, place: Place) -> bool:
    """Whether nothing is interpolated at a place that is no stop.

    That is before the first snapshot, and where the neighbours differ by more than a quarter of the
    narrower one's 95 % interval. A curve that only rises or only falls between them is off the
    straight line by no more than they differ.
    """
    if place.is_early:
        return True
    stops = (place.before, place.after)
    ends = [estimate(panel, stop.method, stop.step).interval for stop in stops]
    if None in ends:
        return True
    first, last = (end for end in ends if end is not None)
    width = min(end.high - end.low for end in (first, last))
    return abs(last.estimate - first.estimate) > _STEEP * width


@dataclass(frozen=True, kw_only=True)
class MatchedTable:
    """All methods of a task at the same amount of one counter.

    Attributes:
        counter: What is equal, e.g. ``forward_equivalents``.
        methods: Whose whole training the level is; none of a level that was asked for.
        places: Where the methods are that spent as much.
        gaps: Metrics without a measurement at a method's place: all where that is early, else
            those that are steep there.
        table: The numbers; a method that never spent as much has none, nor has a gap, nor one that
            was still in its first stage, which is a row itself.
    """

    counter: str
    level: float
    methods: tuple[str, ...]
    places: Mapping[str, Place]
    gaps: Mapping[str, tuple[str, ...]]
    table: TaskTable


def matched_tables(
    tables: Sequence[TaskTable],
    panels: Panels,
    points: Sequence[CurvePoint],
    counter: str,
    asked: Mapping[str, Collection[float]] | None = None,
) -> list[MatchedTable]:
    """Compare the methods of every task at what each of them spent in all of a counter.

    By task, then level; only levels that two trained methods reached, those that were ``asked`` for
    by task included. ``points`` are of the deciding metrics. Where a snapshot was taken at the
    level, it is compared; else every image's score is taken as linear between two that hardly
    differ, and decides nothing.
    """
    matched: list[MatchedTable] = []
    for table in tables:
        parts = []
        own = {name: panels[table.task, name] for name in table.metrics}
        for level, methods, places in _levels(table, panels, points, counter, asked or {}):
            gaps = {name: gap for name, at in places.items() if (gap := _gap(own, at))}
            whole = [name for name in places if table.final_metric not in gaps.get(name, ())]
            # Beyond the baseline's own cost, who spent it all is what there is to compare with.
            candidates = [table.baseline, *methods, *places]
            baseline = next((name for name in candidates if name in whole), table.baseline)
            # What was published of equal steps nobody said of equal costs.
            targets = replace(table.targets, published={})
            compared = replace(table, baseline=baseline, targets=targets)
            parts.append(
                MatchedTable(
                    counter=counter,
                    level=level,
                    methods=tuple(methods),
                    places=places,
                    gaps=gaps,
                    table=_matched(compared, own, places, gaps),
                )
            )
        matched += _as_one_family(parts)
    return matched


def _as_one_family(parts: Sequence[MatchedTable]) -> list[MatchedTable]:
    """A task's costs, decided together: who reads them all has as many looks as comparisons."""
    tables = [part.table for part in parts]
    family = {(one.method, str(n)): one for n, own in enumerate(tables) for one in own.family}
    if not family:
        return list(parts)
    joint = decided(family, tables[0].targets)

    def as_decided(row: MethodRow, n: int) -> MethodRow:
        one = {tables[n].final_metric: joint[key]} if (key := (row.method, str(n))) in joint else {}
        return replace(row, comparisons={**row.comparisons, **one})

    return [
        replace(part, table=replace(own, rows=tuple(as_decided(row, n) for row in own.rows)))
        for n, (part, own) in enumerate(zip(parts, tables, strict=True))
    ]


def _levels(
    table: TaskTable,
    panels: Panels,
    points: Sequence[CurvePoint],
    counter: str,
    asked: Mapping[str, Collection[float]],
) -> Iterator[tuple[float, list[str], dict[str, Place]]]:
    """Levels, who spent that in all, and the places of all that spent as much."""
    ways = trained_ways(table, panels, points)
    panel = panels.get((table.task, table.final_metric))
    whole = [name for name in ways if panel is not None and is_whole(panel, name, ways[name])]
    spent = [(ways[name][-1].spent.get(counter), name) for name in whole]
    totals = sorted((total, [name]) for total, name in spent if total)
    for level, methods in _merged([*totals, *((cost, []) for cost in asked.get(table.task, ()))]):
        places = {name: place_at(stops, counter, level) for name, stops in ways.items()}
        # In its first stage a method is that stage's, which has a row of its own.
        reached = {n: place for n, place in places.items() if place and place.after.method == n}
        # One method alone at a level is compared with nobody.
        if len(reached) > 1:
            yield level, methods, reached


def _merged(levels: Iterable[tuple[float, list[str]]]) -> list[tuple[float, list[str]]]:
    """Levels in ascending order; those that are as good as the same are one."""
    merged: list[tuple[float, list[str]]] = []
    # Those that somebody spent come first, so that one that was asked for gives way.
    for level, methods in levels:
        near = [one for one in merged if abs(one[0] - level) <= _NEAR * level]
        if near:
            near[0][1].extend(methods)
        else:
            merged.append((level, list(methods)))
    return sorted(merged)


def _gap(panels: Mapping[str, Panel], place: Place) -> tuple[str, ...]:
    """The metrics that are not measured at a place, nor nearly so."""
    if place.is_measured:
        return ()
    return tuple(name for name, panel in panels.items() if is_gap(panel, place))


def _matched(
    table: TaskTable,
    panels: Mapping[str, Panel],
    places: Mapping[str, Place],
    gaps: Mapping[str, Collection[str]],
) -> TaskTable:
    """The table with every method at its place."""
    moved = {
        name: _moved(panel, {n: at for n, at in places.items() if name not in gaps.get(n, ())})
        for name, panel in panels.items()
    }
    comparisons = _comparisons(moved, places, table)
    measured = [name for name in places if len(gaps.get(name, ())) < len(panels)]
    nothing = Estimate(interval=None, num_unscored=0, reasons=(), problem=NOT_MEASURED)
    rows = [
        replace(
            row,
            budget=_spent(places[row.method]) if row.method in measured else {},
            estimates={
                **final_estimates(moved, row.method),
                **dict.fromkeys(gaps.get(row.method, ()), nothing),
            },
            comparisons={name: one for (of, name), one in comparisons.items() if of == row.method},
        )
        for row in table.rows
        if row.method != BASE
    ]
    return replace(table, rows=tuple(rows))


def _comparisons(
    panels: Mapping[str, Panel], places: Mapping[str, Place], table: TaskTable
) -> dict[tuple[str, str], Comparison]:
    """Comparisons with the baseline, by (method, evaluator); decided where both were measured."""
    exact = [name for name, place in places.items() if place.is_measured]
    # Two noisy numbers make a mean that is quieter than any measurement: no verdict rests on it.
    if table.baseline not in exact:
        return final_comparisons(panels, places, table.baseline, Targets())
    between = [name for name in places if name not in exact]
    return {
        **final_comparisons(panels, exact, table.baseline, table.targets),
        **final_comparisons(panels, between, table.baseline, Targets()),
    }


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
    return replace(panel, values=values, reasons={run: {} for run in values})
