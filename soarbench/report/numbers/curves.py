"""Metric over steps as data: what the figure draws and its CSV holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.config.stages import first_stage
from soarbench.report.numbers.estimates import estimate
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.tables import Panels, TaskTable
from soarbench.stats.intervals import Interval, mean_interval
from soarbench.store.cells import Cell

#: Cumulative counters of training, any of which can be the figure's x axis.
COUNTERS = ("images_seen", "forward_equivalents", "reward_calls", "seconds")
#: (steps, values) by name.
Counters = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One method's number at one step, with its 95 % interval.

    Attributes:
        metric: Name of the evaluator, or of a quantity of the diagnostics.
        method: Name; the base has the one point at step 0 that all methods start from.
        spent: Counters of training up to this step, mean over seeds; 0 for the base, and without an
            entry where training did not log it.
        unit: Updates at whose multiples costs are compared (``baselines.config.cost_unit``).
    """

    task: str
    metric: str
    method: str
    step: int
    value: float
    low: float
    high: float
    num_prompts: int
    num_seeds: int
    spent: Mapping[str, float]
    unit: int = 1


def curve_point(
    task: str,
    metric: str,
    method: str,
    step: int,
    mean: Interval,
    spent: Mapping[str, float],
    *,
    unit: int = 1,
) -> CurvePoint:
    """A point of an interval."""
    return CurvePoint(
        task=task,
        metric=metric,
        method=method,
        step=step,
        value=mean.estimate,
        low=mean.low,
        high=mean.high,
        num_prompts=mean.num_prompts,
        num_seeds=mean.num_seeds,
        spent=spent,
        unit=unit,
    )


def build_curves(
    cells: Sequence[Cell], panels: Panels, tables: Sequence[TaskTable]
) -> list[CurvePoint]:
    """Estimate every metric that is drawn at every step that was judged."""
    # Each log is read once, though every metric asks for it; its losses and norms are not kept.
    logs: dict[tuple[str, str], list[Counters]] = {}
    units: dict[str, int] = {}
    for cell in cells:
        units[cell.method] = _cost_unit(cell)
        logged = {name: values for name, values in cell.training().items() if name in COUNTERS}
        logs.setdefault((cell.task, cell.method), []).append(logged)
    points: list[CurvePoint] = []
    for table in tables:
        # With several tasks a panel each; with one there is room for all that is learned. What
        # decides is never left out, an oracle or not: costs are compared along its curve.
        drawn = [
            name for name in table.metrics
            if name == table.final_metric or not table.facts[name].is_oracle
        ]  # fmt: skip
        for metric in drawn if len(tables) == 1 else [table.final_metric]:
            panel = panels.get((table.task, metric))
            if panel is not None:
                for method in panel.methods:
                    own = logs.get((table.task, method), [])
                    points += _curve(panel, method, own, units.get(method, 1))
    return points


def panel_points(panel: Panel) -> list[CurvePoint]:
    """One metric of one task at every step of every method, without the counters of training."""
    return [point for method in panel.methods for point in _curve(panel, method, [], 1)]


def build_differences(
    panels: Panels, tables: Sequence[TaskTable], points: Sequence[CurvePoint]
) -> list[CurvePoint]:
    """The paired difference to the baseline at every step of the ``points``, as points.

    To the baseline after as many steps, first stages included, or at its last one where it ended
    earlier, so that the last one of a method that ends with it is the table's. None at steps at
    which the baseline was not measured.
    """
    baselines = {table.task: table.baseline for table in tables}
    differences = []
    for point in points:
        panel, baseline = panels[point.task, point.metric], baselines[point.task]
        step = _baseline_step(panel, point, baseline)
        if step is None or point.method in (BASE, baseline):
            continue
        try:
            scores = panel.differences((point.method, point.step), (baseline, step))
        except ValueError:
            continue  # no seed or image in common: the table has a dash there, too
        mean = mean_interval(scores)
        named = (point.task, point.metric, point.method, point.step)
        differences.append(curve_point(*named, mean, point.spent))
    return differences


def _baseline_step(panel: Panel, point: CurvePoint, baseline: str) -> int | None:
    """The baseline's own step at a point's place; None where it was not measured there."""
    steps = panel.steps(baseline)
    place = _stage_start(panel, point.method) + point.step - _stage_start(panel, baseline)
    return place if place in steps else steps[-1] if steps and place > steps[-1] else None


def _stage_start(panel: Panel, method: str) -> int:
    """Steps of all stages before a method's last one."""
    earlier = first_stage(method)
    steps = panel.steps(earlier)[-1:] if earlier else []
    return steps[0] + _stage_start(panel, earlier) if steps else 0


def _cost_unit(cell: Cell) -> int:
    """``baselines.config.cost_unit`` of the settings that a cell was trained with."""
    parts = (("method", "updates_per_collection"), ("ema", "every"))
    settings = [(cell.config.get(group), name) for group, name in parts]
    updates = [group.get(name) for group, name in settings if isinstance(group, dict)]
    return math.lcm(*(one for one in updates if isinstance(one, int)))


def _curve(panel: Panel, method: str, logs: Sequence[Counters], unit: int) -> list[CurvePoint]:
    """One method's points, by step."""
    points = []
    for step in panel.steps(method):
        interval = estimate(panel, method, step).interval
        if interval is not None:
            spent = dict.fromkeys(COUNTERS, 0.0) if method == BASE else _spent(logs, step)
            named = (panel.task, panel.evaluator, method, step)
            points.append(curve_point(*named, interval, spent, unit=unit))
    return points


def _spent(logs: Sequence[Counters], step: int) -> dict[str, float]:
    """Each counter's last value up to a step, mean over cells; without those that one lacks."""
    spent = {}
    for name in COUNTERS:
        values = []
        for steps, counted in (log[name] for log in logs if name in log):
            # Counters are logged every few steps: the last value up to here is what was spent.
            position = int(np.searchsorted(steps, step, side="right"))
            if position > 0:
                values.append(float(counted[position - 1]))
        # A mean over some of the seeds would pass for one over all.
        if values and len(values) == len(logs):
            spent[name] = sum(values) / len(values)
    return spent
