"""Metric over steps as data: what the figure draws and its CSV holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.report.numbers.estimates import estimate
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.tables import Panels, TaskTable
from soarbench.store.cells import Cell

#: Cumulative counters of training, any of which can be the figure's x axis.
COUNTERS = ("images_seen", "forward_equivalents", "reward_calls", "seconds")
Counters = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One method's number at one step.

    Attributes:
        task: Name of the task; one panel of the figure.
        metric: Name of the evaluator.
        method: Name; the base has the one point at step 0 that all methods start from.
        step: Optimiser steps.
        value: The number.
        low: Lower end of its 95 % interval.
        high: Upper end.
        num_prompts: Prompts in it.
        num_seeds: Training seeds in it.
        spent: Counters of training up to this step, mean over seeds; 0 for the base, and without an
            entry where training did not log it.
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


def curve_metrics(table: TaskTable, num_tasks: int) -> list[str]:
    """Which metrics are drawn: the deciding one; all learned ones when there is but one task."""
    if num_tasks > 1:
        return [table.final_metric]
    return [name for name in table.metrics if not table.facts[name].is_oracle]


def build_curves(
    cells: Sequence[Cell], panels: Panels, tables: Sequence[TaskTable]
) -> list[CurvePoint]:
    """Estimate every metric that is drawn at every step that was judged."""
    # Each log is read once, though every metric asks for it.
    logs = {cell.cell_id: _counters(cell) for cell in cells}
    points: list[CurvePoint] = []
    for table in tables:
        for metric in curve_metrics(table, len(tables)):
            panel = panels.get((table.task, metric))
            if panel is None:
                continue
            for method in panel.methods:
                mine = [
                    logs[cell.cell_id]
                    for cell in cells
                    if (cell.task, cell.method) == (table.task, method)
                ]
                points += _curve(panel, method, mine)
    return points


def panel_points(panel: Panel) -> list[CurvePoint]:
    """One metric of one task at every step of every method, without the counters of training."""
    return [point for method in panel.methods for point in _curve(panel, method, [])]


def _curve(panel: Panel, method: str, logs: Sequence[Counters]) -> list[CurvePoint]:
    """One method's points, by step."""
    points = []
    for step in panel.steps(method):
        interval = estimate(panel, method, step).interval
        if interval is not None:
            points.append(
                CurvePoint(
                    task=panel.task,
                    metric=panel.evaluator,
                    method=method,
                    step=step,
                    value=interval.estimate,
                    low=interval.low,
                    high=interval.high,
                    num_prompts=interval.num_prompts,
                    num_seeds=interval.num_seeds,
                    spent=dict.fromkeys(COUNTERS, 0.0) if method == BASE else _spent(logs, step),
                )
            )
    return points


def _counters(cell: Cell) -> Counters:
    """The counters that training logged: name to (steps, values)."""
    training = cell.training()
    return {name: training[name] for name in COUNTERS if name in training}


def _spent(logs: Sequence[Counters], step: int) -> dict[str, float]:
    """Each counter's last value up to a step, mean over cells; without those that one lacks."""
    spent = {}
    for name in COUNTERS:
        values = []
        for log in logs:
            steps, counted = log.get(name, (np.empty(0), np.empty(0)))
            # Counters are logged every few steps: the last value up to here is what was spent.
            position = int(np.searchsorted(steps, step, side="right"))
            if position > 0:
                values.append(float(counted[position - 1]))
        # A mean over some of the seeds would pass for one over all.
        if values and len(values) == len(logs):
            spent[name] = sum(values) / len(values)
    return spent
