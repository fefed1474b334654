"""Diagnostics as data: what ``soarbench.diagnostics`` measured, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from soarbench.common.errors import StoreError
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.estimates import labelled_rng
from soarbench.report.numbers.names import BASE, ordered_methods
from soarbench.stats import Interval, cluster, mean_interval
from soarbench.stats.clusters import FloatArray, IntArray
from soarbench.store.cells import Cell

#: Quantities by name, with what the axis says.
QUANTITIES = {
    "entropy": "Entropy (bits)",
    "edge_density": "Edge density",
    "saturation": "Saturation",
    "brightness": "Brightness",
    "diversity": "RMS between images",
    "velocity_norm": "Velocity norm / base",
}
#: What each quantity is about.
ROLES = {
    **dict.fromkeys(("entropy", "edge_density", "saturation", "brightness"), "Images"),
    "diversity": "Within a prompt",
    "velocity_norm": "Model",
}
_STATISTICS = tuple(name for name in QUANTITIES if name != "velocity_norm")


@dataclass(frozen=True)
class Rows:
    """Values of one quantity of one cell.

    Attributes:
        steps: Optimiser steps; (N,).
        labels: Number of the prompt, or of the image that was followed; (N,).
        values: (N,), without nan.
    """

    steps: IntArray
    labels: IntArray
    values: FloatArray


Who = tuple[str, int]
"""Method and training seed."""


Place = tuple[float, int, float]
"""Where on a trajectory: level of its start, step of the sampler, level."""


@dataclass(frozen=True, kw_only=True)
class DeviationPoint:
    """How far a method's trajectories are from the path they were put on.

    Attributes:
        task: Whose images were followed.
        start: Level at which the path was left, 1 = noise.
        method: Name.
        index: Step of the sampler; 0 is the start.
        sigma: Level.
        deviation: RMS distance to the path, mean over images, latent units.
        low: Lower end of its 95 % interval over images.
        high: Upper end.
        difference: To the base, on the same images; 0 of the base.
        difference_low: Lower end of its 95 % interval.
        difference_high: Upper end.
        num_images: Images that were followed.
        num_seeds: Training seeds.
    """

    task: str
    start: float
    method: str
    index: int
    sigma: float
    deviation: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    num_images: int
    num_seeds: int


def unmeasured(cells: Sequence[Cell], task: str) -> list[str]:
    """Cells of a task, the base among them, without diagnostics."""
    key = _task_key(cells, task)
    return [
        cell.cell_id
        for cell in cells
        if (cell.task == task or cell.is_base) and not cell.has_diagnostics(key)
    ]


def _task_key(cells: Sequence[Cell], task: str) -> str:
    """Of the data that the cells of a task trained on.

    Raises:
        StoreError: They trained on unlike data, whose images cannot be paired.
    """
    keys = {
        cell.data_key: cell.cell_id
        for cell in cells
        if cell.task == task and cell.data_key is not None
    }
    if len(keys) > 1:
        raise StoreError(
            f"{' and '.join(list(keys.values())[:2])} trained on different data; report with the "
            "overrides of the one you mean"
        )
    return next(iter(keys), task)


def diagnostic_points(cells: Sequence[Cell], task: str, prompts: np.ndarray) -> list[CurvePoint]:
    """All quantities at all steps.

    Args:
        cells: Finished ones, of any task.
        task: Name.
        prompts: Evaluation prompts of the task: the base has images of other tasks' too.

    Raises:
        StoreError: A table is damaged.
    """
    known = np.unique(prompts)
    members = [cell for cell in cells if cell.task == task or cell.is_base]
    by_quantity: dict[str, dict[Who, Rows]] = {name: {} for name in QUANTITIES}
    for cell in members:
        for name, rows in _statistics(cell, known).items():
            by_quantity[name][cell.method, cell.seed] = rows
    by_quantity["velocity_norm"] = _norm_ratios(members, _task_key(cells, task))
    return [point for name, rows in by_quantity.items() for point in _points(task, name, rows)]


def _statistics(cell: Cell, known: np.ndarray) -> dict[str, Rows]:
    """Mean of every statistic by step and prompt, without prompts that are not ``known``."""
    table = cell.statistics()
    if table is None:
        return {}
    # Images of one prompt resemble each other: prompts are what is resampled later.
    means = table.group_by(["step", "prompt_id"]).aggregate([(n, "mean") for n in _STATISTICS])
    prompts = np.asarray(means["prompt_id"].to_pylist(), dtype=np.str_)
    # The base drew the prompts of all tasks; those of others would shift its mean.
    is_known = np.isin(prompts, known)
    steps, labels = _integers(means["step"]), np.searchsorted(known, prompts)
    statistics = {}
    for name in _STATISTICS:
        # A prompt with one image has no diversity: null, which becomes nan.
        values = means[f"{name}_mean"].to_numpy().astype(np.float64)
        kept = is_known & ~np.isnan(values)
        if kept.any():
            statistics[name] = Rows(steps[kept], labels[kept].astype(np.intp), values[kept])
    return statistics


def _integers(column: pa.ChunkedArray) -> IntArray:
    return np.asarray(column.to_numpy(), dtype=np.intp)


def _norm_ratios(members: Sequence[Cell], key: str) -> dict[Who, Rows]:
    """Velocity norm over the base's on the same image."""
    norms: dict[Who, Rows] = {}
    for cell in members:
        table = cell.norms(key)
        if table is not None:
            values = table["norm"].to_numpy().astype(np.float64)
            rows = Rows(_integers(table["step"]), _integers(table["row"]), values)
            norms[cell.method, cell.seed] = rows
    base = next((rows for (method, _), rows in norms.items() if method == BASE), None)
    if base is None:
        return {}
    of_base = dict(zip(base.labels.tolist(), base.values.tolist(), strict=True))
    ratios = {}
    for who, rows in norms.items():
        units = np.array([of_base.get(label, np.nan) for label in rows.labels.tolist()])
        # An image that was not followed in the base has no ratio.
        kept = units > 0
        ratios[who] = Rows(rows.steps[kept], rows.labels[kept], (rows.values / units)[kept])
    return ratios


def _points(task: str, quantity: str, rows_of: Mapping[Who, Rows]) -> Iterator[CurvePoint]:
    for method in ordered_methods({method for method, _ in rows_of}):
        mine = {seed: rows for (of, seed), rows in rows_of.items() if of == method}
        steps = np.concatenate([rows.steps for rows in mine.values()])
        labels = np.concatenate([rows.labels for rows in mine.values()])
        values = np.concatenate([rows.values for rows in mine.values()])
        seeds = np.repeat(list(mine), [rows.steps.size for rows in mine.values()])
        # Every step on its own, so that another snapshot does not move the numbers of this one.
        for step in np.unique(steps).tolist():
            at = steps == step
            table = cluster(values[at], labels[at], seeds=seeds[at])
            mean = mean_interval(table, labelled_rng("diagnostics", task, quantity, method, step))
            yield CurvePoint(
                task=task,
                metric=quantity,
                method=method,
                step=step,
                value=mean.estimate,
                low=mean.low,
                high=mean.high,
                num_prompts=mean.num_prompts,
                num_seeds=mean.num_seeds,
                spent={},
            )


def deviation_points(cells: Sequence[Cell], task: str) -> list[DeviationPoint]:
    """Deviation from the training path of every method, start and step of the sampler.

    Raises:
        StoreError: A table is damaged.
    """
    tables: dict[Who, dict[Place, FloatArray]] = {}
    key = _task_key(cells, task)
    for cell in cells:
        if cell.task == task or cell.is_base:
            table = cell.deviations(key)
            if table is not None:
                tables[cell.method, cell.seed] = _by_place(table)
    _refuse_unlike(tables, task)
    base = next((paths for (method, _), paths in tables.items() if method == BASE), {})
    points: list[DeviationPoint] = []
    for method in ordered_methods({method for method, _ in tables}):
        mine = {seed: paths for (of, seed), paths in tables.items() if of == method}
        for place in next(iter(mine.values())):
            values = {seed: paths[place] for seed, paths in mine.items() if place in paths}
            points.append(_deviation(task, method, place, values, base.get(place)))
    return points


def _refuse_unlike(tables: Mapping[Who, Mapping[Place, FloatArray]], task: str) -> None:
    """Paths of other images, or along other levels, cannot be compared."""
    shapes = {tuple((place, v.size) for place, v in paths.items()) for paths in tables.values()}
    if len(shapes) > 1:
        raise StoreError(
            f"cells of task {task!r} were diagnosed by different versions or settings; delete the "
            "folder probes of their output_dir and run python -m soarbench diagnose again"
        )


def _by_place(table: pa.Table) -> dict[Place, FloatArray]:
    """Deviations of the images in their order, by place; (N,) each."""
    names = ("start", "index", "sigma", "row", "deviation")
    start, index, sigma, row, deviation = (table[name].to_numpy() for name in names)
    # Images in one order in every table: differences are taken by position.
    order = np.lexsort((row, index, start))
    places = list(zip(start.tolist(), index.tolist(), sigma.tolist(), strict=True))
    deviations: dict[Place, list[float]] = {}
    for at in order.tolist():
        deviations.setdefault(places[at], []).append(float(deviation[at]))
    return {place: np.array(values) for place, values in deviations.items()}


def _deviation(
    task: str,
    method: str,
    place: Place,
    by_seed: Mapping[int, FloatArray],
    base: FloatArray | None,
) -> DeviationPoint:
    start, index, sigma = place

    def interval(kind: str, change: Callable[[FloatArray], FloatArray]) -> Interval:
        values = np.concatenate([change(values) for values in by_seed.values()])
        rows = np.concatenate([np.arange(values.size) for values in by_seed.values()])
        seeds = np.repeat(list(by_seed), [values.size for values in by_seed.values()])
        rng = labelled_rng("diagnostics", task, kind, method, start, index)
        return mean_interval(cluster(values, rows, seeds=seeds), rng)

    level = interval("deviation", lambda values: values)
    if base is None:
        nothing = float("nan")
        differences = (nothing, nothing, nothing)
    else:
        # On the same images, so that what no model can know cancels.
        paired = interval("difference", lambda values: values - base)
        differences = (paired.estimate, paired.low, paired.high)
    return DeviationPoint(
        task=task,
        start=start,
        method=method,
        index=index,
        sigma=sigma,
        deviation=level.estimate,
        low=level.low,
        high=level.high,
        difference=differences[0],
        difference_low=differences[1],
        difference_high=differences[2],
        num_images=level.num_prompts,
        num_seeds=level.num_seeds,
    )
