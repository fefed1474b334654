"""Diagnostics as data: what ``soarbench.diagnostics`` measured, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from soarbench.diagnostics.files import deviations_path, images_path, norms_path
from soarbench.report.compare import labelled_rng
from soarbench.report.curves import CurvePoint
from soarbench.report.metrics import BASE, ordered_methods
from soarbench.report.store import Cell, StoreError
from soarbench.stats import Interval, cluster, mean_interval
from soarbench.stats.clusters import FloatArray

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
Rows = dict[tuple[int, str], float]
"""Values by (step, prompt or image that was followed)."""

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
    return [
        cell.cell_id
        for cell in cells
        if (cell.task == task or cell.is_base)
        and not (images_path(cell.folder).is_file() and norms_path(cell.folder, task).is_file())
    ]


def diagnostic_points(cells: Sequence[Cell], task: str, prompts: np.ndarray) -> list[CurvePoint]:
    """All quantities at all steps.

    Args:
        cells: Finished ones, of any task.
        task: Name.
        prompts: Evaluation prompts of the task: the base has images of other tasks' too.

    Raises:
        StoreError: A table is damaged.
    """
    wanted = set(prompts.tolist())
    members = [cell for cell in cells if cell.task == task or cell.is_base]
    by_quantity: dict[str, dict[Who, Rows]] = {name: {} for name in QUANTITIES}
    for cell in members:
        for name, rows in _statistics(cell, wanted).items():
            by_quantity[name][cell.method, cell.seed] = rows
    by_quantity["velocity_norm"] = _norm_ratios(members, task)
    return [point for name, rows in by_quantity.items() for point in _points(task, name, rows)]


def _read(path: Path) -> pa.Table | None:
    if not path.is_file():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(
            f"{path} is damaged ({error}); delete it and run python -m soarbench diagnose again"
        ) from error


def _statistics(cell: Cell, wanted: set[str]) -> dict[str, Rows]:
    """Mean of every statistic by (step, prompt)."""
    table = _read(images_path(cell.folder))
    if table is None:
        return {}
    means = table.group_by(["step", "prompt_id"]).aggregate([(n, "mean") for n in _STATISTICS])
    found: dict[str, Rows] = {name: {} for name in _STATISTICS}
    for row in means.to_pylist():
        if row["prompt_id"] in wanted:
            for name in _STATISTICS:
                if row[f"{name}_mean"] is not None:
                    found[name][row["step"], row["prompt_id"]] = row[f"{name}_mean"]
    return {name: rows for name, rows in found.items() if rows}


def _norm_ratios(members: Sequence[Cell], task: str) -> dict[Who, Rows]:
    """Velocity norm over the base's on the same image, by (step, image)."""
    norms: dict[Who, Rows] = {}
    for cell in members:
        table = _read(norms_path(cell.folder, task))
        if table is not None:
            rows = {(row["step"], str(row["row"])): row["norm"] for row in table.to_pylist()}
            norms[cell.method, cell.seed] = rows
    base = next((rows for (method, _), rows in norms.items() if method == BASE), {})
    of_base = {row: value for (_, row), value in base.items()}
    return {
        who: {
            (step, row): value / of_base[row]
            for (step, row), value in rows.items()
            if of_base.get(row)
        }
        for who, rows in norms.items()
    }


def _points(task: str, quantity: str, found_by: Mapping[Who, Rows]) -> Iterator[CurvePoint]:
    for method in ordered_methods({method for method, _ in found_by}):
        mine = {seed: rows for (of, seed), rows in found_by.items() if of == method}
        for step in sorted({step for rows in mine.values() for step, _ in rows}):
            found = _interval(
                {
                    seed: {label: value for (at, label), value in rows.items() if at == step}
                    for seed, rows in mine.items()
                },
                (task, quantity, method, step),
            )
            if found is not None:
                yield CurvePoint(
                    task=task,
                    metric=quantity,
                    method=method,
                    step=step,
                    value=found.estimate,
                    low=found.low,
                    high=found.high,
                    num_prompts=found.num_prompts,
                    num_seeds=found.num_seeds,
                    spent={},
                )


def _interval(
    by_seed: Mapping[int, Mapping[str, float]], labels: tuple[object, ...]
) -> Interval | None:
    """Interval of a mean over prompts (or images that were followed) and seeds."""
    rows = [(seed, name, v) for seed, values in by_seed.items() for name, v in values.items()]
    if not rows:
        return None
    seeds, names, values = zip(*sorted(rows), strict=True)
    table = cluster(values, np.array(names), seeds=seeds)
    return mean_interval(table, labelled_rng("diagnostics", *labels))


def deviation_points(cells: Sequence[Cell], task: str) -> list[DeviationPoint]:
    """Deviation from the training path of every method, start and step of the sampler.

    Raises:
        StoreError: A table is damaged.
    """
    tables: dict[Who, dict[Place, FloatArray]] = {}
    for cell in cells:
        if cell.task == task or cell.is_base:
            table = _read(deviations_path(cell.folder, task))
            if table is not None:
                tables[cell.method, cell.seed] = _by_place(table)
    _refuse_unlike(tables, task)
    base = next((found for (method, _), found in tables.items() if method == BASE), {})
    points: list[DeviationPoint] = []
    for method in ordered_methods({method for method, _ in tables}):
        mine = {seed: found for (of, seed), found in tables.items() if of == method}
        for place in next(iter(mine.values())):
            values = {seed: found[place] for seed, found in mine.items() if place in found}
            points.append(_deviation(task, method, place, values, base.get(place)))
    return points


def _refuse_unlike(tables: Mapping[Who, Mapping[Place, FloatArray]], task: str) -> None:
    """Paths of other images, or along other levels, cannot be compared."""
    shapes = {tuple((place, v.size) for place, v in found.items()) for found in tables.values()}
    if len(shapes) > 1:
        raise StoreError(
            f"cells of task {task!r} were diagnosed by different versions or settings; delete "
            "their diagnostics folders and run python -m soarbench diagnose again"
        )


def _by_place(table: pa.Table) -> dict[Place, FloatArray]:
    """Deviations of the images in their order, by place; (N,) each."""
    found: dict[Place, list[tuple[int, float]]] = {}
    for row in table.to_pylist():
        place = (row["start"], row["index"], row["sigma"])
        found.setdefault(place, []).append((row["row"], row["deviation"]))
    return {place: np.array([v for _, v in sorted(rows)]) for place, rows in sorted(found.items())}


def _deviation(
    task: str,
    method: str,
    place: Place,
    by_seed: Mapping[int, FloatArray],
    base: FloatArray | None,
) -> DeviationPoint:
    start, index, sigma = place

    def interval(kind: str, change: Callable[[FloatArray], FloatArray]) -> Interval:
        named = {
            seed: {f"{row:06d}": v for row, v in enumerate(change(values).tolist())}
            for seed, values in by_seed.items()
        }
        found = _interval(named, (task, kind, method, start, index))
        assert found is not None, "a method without any image that was followed"
        return found

    level = interval("deviation", lambda values: values)
    if base is None:
        nothing = float("nan")
        differences = (nothing, nothing, nothing)
    else:
        found = interval("difference", lambda values: values - base)
        differences = (found.estimate, found.low, found.high)
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
