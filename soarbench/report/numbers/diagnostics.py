"""Diagnostics as data: what ``soarbench.diagnostics`` measured, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from soarbench.common.errors import StoreError
from soarbench.report.numbers.curves import CurvePoint, curve_point
from soarbench.report.numbers.names import BASE, ordered_methods
from soarbench.stats.clusters import FloatArray, cluster
from soarbench.stats.intervals import Interval, mean_interval
from soarbench.store.cells import Cell

#: Quantities by name: their title, and what the axis says.
QUANTITIES = {
    "entropy": ("Entropy", "Bits"),
    "edge_density": ("Edge density", "Share of pixels"),
    "saturation": ("Saturation", "Mean over pixels"),
    "brightness": ("Brightness", "Mean luma"),
    "diversity": ("RMS diversity", "Between images of a prompt"),
    "lpips": ("LPIPS", "Between images of a prompt"),
    "vendi": ("Vendi score", "Distinct images of a prompt"),
    "velocity_norm": ("Velocity norm", "Share of the base's"),
}
#: How unlike the images of a prompt are.
DIVERSITY = ("diversity", "lpips", "vendi")
_STATISTICS = [name for name in QUANTITIES if name != "velocity_norm"]
#: Where on a trajectory: level of its start, step of the sampler, level.
Place = tuple[float, int, float]


@dataclass(frozen=True, kw_only=True)
class DeviationPoint:
    """How far a method's trajectories are from the path they were put on, with 95 % intervals.

    Attributes:
        task: Whose images were followed.
        start: Level at which the path was left, 1 = noise.
        index: Step of the sampler; 0 is the start.
        sigma: Level at that step.
        deviation: RMS distance to the path, mean over images, latent units.
        difference: To the base, on the same images; 0 of the base, nan without it.
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


def _members(cells: Sequence[Cell], task: str) -> list[Cell]:
    return [cell for cell in cells if cell.task == task or cell.is_base]


def unmeasured(cells: Sequence[Cell], task: str) -> list[str]:
    """Cells of a task, the base among them, without diagnostics."""
    key = _task_key(cells, task)
    return [cell.cell_id for cell in _members(cells, task) if not cell.has_diagnostics(key)]


def _task_key(cells: Sequence[Cell], task: str) -> str:
    """Of the data that a task trained on; ``StoreError``: unlike data, whose images do not pair."""
    keys = {cell.data_key: cell.cell_id for cell in cells if cell.task == task and cell.data_key}
    if len(keys) > 1:
        raise StoreError(
            f"{' and '.join(list(keys.values())[:2])} trained on different data; report with the "
            "overrides of the one you mean"
        )
    return next(filter(None, keys), task)


def image_statistics(cells: Sequence[Cell], task: str, prompts: np.ndarray) -> pd.DataFrame:
    """Means of every statistic of a task by method, seed, step and prompt: quantity, label, value.

    ``prompts`` are the task's evaluation prompts; a label is the number of one, in sorted order.
    ``StoreError`` where a table is damaged.
    """
    known = np.unique(prompts)
    frames = [frame for cell in _members(cells, task) for frame in _statistics(cell, known)]
    return pd.concat(frames) if frames else pd.DataFrame()


def diagnostic_points(
    cells: Sequence[Cell], task: str, statistics: pd.DataFrame
) -> list[CurvePoint]:
    """All quantities of a task at all steps; ``statistics`` are ``image_statistics``.

    Raises:
        StoreError: A table is damaged, or cells trained on unlike data.
    """
    norms = _norm_ratios(_members(cells, task), _task_key(cells, task))
    frames = [frame for frame in (statistics, *norms) if len(frame)]
    if not frames:
        return []
    values = pd.concat(frames)
    return [
        point
        for quantity in QUANTITIES
        for point in _points(task, quantity, values[values["quantity"] == quantity])
    ]


def _statistics(cell: Cell, known: np.ndarray) -> Iterator[pd.DataFrame]:
    """Mean of every statistic by step and prompt, without prompts that are not ``known``."""
    table = cell.statistics()
    if table is None:
        return
    names = [name for name in _STATISTICS if name in table.column_names]
    # Images of one prompt resemble each other: prompts are what is resampled later.
    means = table.group_by(["step", "prompt_id"]).aggregate([(n, "mean") for n in names])
    frame = means.rename_columns([n.removesuffix("_mean") for n in means.column_names]).to_pandas()
    # The base drew the prompts of all tasks; those of others would shift its mean.
    frame = frame[frame["prompt_id"].isin(known)]
    # By number: many seeds' tables are sorted by it several times quicker than by name.
    frame["label"] = np.searchsorted(known, frame["prompt_id"].to_numpy(dtype=str))
    values = frame.melt(["step", "label"], names, "quantity", "value")
    # A prompt with one image has no diversity: null, which became nan.
    yield values.dropna().assign(method=cell.method, seed=cell.seed)


def _norm_ratios(members: Sequence[Cell], key: str) -> Iterator[pd.DataFrame]:
    """Velocity norm over the base's on the same image."""
    norms = [
        table.to_pandas().assign(method=cell.method, seed=cell.seed)
        for cell in members
        if (table := cell.norms(key)) is not None
    ]
    if norms:
        # Stored as float32, which would round ratios near 1 and, below, small differences.
        frame = pd.concat(norms).rename(columns={"row": "label"}).astype({"norm": np.float64})
        units = frame["label"].map(frame[frame["method"] == BASE].set_index("label")["norm"])
        frame = frame.assign(quantity="velocity_norm", value=frame["norm"] / units)
        # An image that was not followed in the base has no ratio.
        yield frame[units > 0].drop(columns="norm")


def _points(task: str, quantity: str, values: pd.DataFrame) -> Iterator[CurvePoint]:
    for method in ordered_methods(set(values["method"])):
        # Every step on its own, so that another snapshot does not move the numbers of this one.
        for step, at in values[values["method"] == method].groupby("step"):
            table = cluster(at["value"], at["label"], seeds=at["seed"])
            yield curve_point(task, quantity, method, step, mean_interval(table), {})


def deviation_points(cells: Sequence[Cell], task: str) -> list[DeviationPoint]:
    """Deviation from the training path of every method, start and step of the sampler.

    Raises:
        StoreError: A table is damaged, or cells trained or were diagnosed unlike.
    """
    key, tables = _task_key(cells, task), {}
    for cell in _members(cells, task):
        table = cell.deviations(key)
        if table is not None:
            tables[cell.method, cell.seed] = _by_place(table)
    # Paths of other images, or along other levels, cannot be compared.
    if len({tuple((place, v.size) for place, v in one.items()) for one in tables.values()}) > 1:
        raise StoreError(
            f"cells of task {task!r} were diagnosed by different versions or settings; delete the "
            "folder probes of their output_dir and run python -m soarbench diagnose again"
        )
    base = next((paths for (method, _), paths in tables.items() if method == BASE), {})
    points: list[DeviationPoint] = []
    for method in ordered_methods({method for method, _ in tables}):
        seeds = sorted(seed for of, seed in tables if of == method)
        for place in tables[method, seeds[0]]:
            rows = np.stack([tables[method, seed][place] for seed in seeds])
            points.append(_deviation(task, method, place, rows, base.get(place)))
    return points


def _by_place(table: pa.Table) -> dict[Place, FloatArray]:
    """Deviations of the images in their order, by place; (N,) each."""
    # Images in one order in every table: differences are taken by position.
    frame = table.to_pandas().sort_values(["start", "index", "row"])
    places = frame.groupby(["start", "index", "sigma"], sort=False)["deviation"]
    return {
        (float(start), int(index), float(sigma)): group.to_numpy(dtype=np.float64)
        for (start, index, sigma), group in places
    }


def _deviation(
    task: str, method: str, place: Place, rows: FloatArray, base: FloatArray | None
) -> DeviationPoint:
    """A point of deviations (S, N) and the base's (N,)."""
    start, index, sigma = place

    def interval(values: FloatArray) -> Interval:
        return mean_interval(cluster(values, np.arange(values.shape[1])))

    level = interval(rows)
    differences = [float("nan")] * 3
    if base is not None:
        # On the same images, so that what no model can know cancels.
        paired = interval(rows - base)
        differences = [paired.estimate, paired.low, paired.high]
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
