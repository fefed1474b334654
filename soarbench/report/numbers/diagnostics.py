"""Diagnostics as data: what ``soarbench.diagnostics`` measured, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from soarbench.common.errors import StoreError
from soarbench.report.numbers.curves import CurvePoint, curve_point
from soarbench.report.numbers.names import BASE, ordered_methods
from soarbench.stats.clusters import cluster
from soarbench.stats.intervals import mean_interval
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


def members(cells: Sequence[Cell], task: str) -> list[Cell]:
    """The cells of a task, and the base."""
    return [cell for cell in cells if cell.task == task or cell.is_base]


def unmeasured(cells: Sequence[Cell], task: str) -> list[str]:
    """Cells of a task, the base among them, without diagnostics."""
    key = task_key(cells, task)
    return [cell.cell_id for cell in members(cells, task) if not cell.has_diagnostics(key)]


def gaps(cells: Sequence[Cell], task: str) -> list[str]:
    """What is missing of a task's diagnostics, a line each: tables, and values that are not finite.

    A table is missing where another trained cell has it: a mean over some of the seeds would pass
    for one over all. Nothing is where nobody was measured.

    Raises:
        StoreError: A table is damaged, or cells trained on unlike data.
    """
    key = task_key(cells, task)
    read: dict[str, tuple[Sequence[str], Callable[[Cell], pa.Table | None]]] = {
        "image statistics": (_STATISTICS, Cell.statistics),
        "velocity norms": (("norm",), lambda cell: cell.norms(key)),
        "exposure bias": (("value",), lambda cell: cell.exposure(key)),
        "scores by other samplers": ((), Cell.robustness),
    }
    # Of what was not trained, images alone are measured.
    own = members(cells, task)
    trained = [cell for cell in own if not cell.is_evaluated_only]
    return [
        line
        for title, (names, table_of) in read.items()
        for line in _gaps(own if table_of is Cell.statistics else trained, title, names, table_of)
    ]


def _gaps(
    cells: Sequence[Cell],
    title: str,
    names: Sequence[str],
    table_of: Callable[[Cell], pa.Table | None],
) -> Iterator[str]:
    """Those of one kind of table, of which ``names`` are the columns of values."""
    # One table at a time: a thousand cells' would not fit in memory.
    lost = [(cell, _num_lost(table_of(cell), names)) for cell in cells]
    is_measured = any(count is not None and not cell.is_base for cell, count in lost)
    for cell, count in lost:
        if count is None and is_measured:
            yield (
                f"{cell.cell_id}, {title}: not measured, though other cells are; 'python -m "
                "soarbench diagnose' with the same settings measures them"
            )
        elif count:
            yield f"{cell.cell_id}, {title}: {count} values are not finite, and are left out"


def _num_lost(table: pa.Table | None, names: Sequence[str]) -> int | None:
    """How many values of a table's columns are no finite number; None without a table."""
    if table is None:
        return None
    columns = [
        # A single image has no diversity: null.
        table[name].drop_null() if name in DIVERSITY else table[name]
        for name in names
        if name in table.column_names
    ]
    return sum(len(one) - (pc.sum(pc.is_finite(one)).as_py() or 0) for one in columns)


def task_key(cells: Sequence[Cell], task: str) -> str:
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
    frames = [frame for cell in members(cells, task) for frame in _statistics(cell, known)]
    return pd.concat(frames) if frames else pd.DataFrame()


def diagnostic_points(
    cells: Sequence[Cell], task: str, statistics: pd.DataFrame
) -> list[CurvePoint]:
    """All quantities of a task at all steps; ``statistics`` are ``image_statistics``.

    Raises:
        StoreError: A table is damaged, or cells trained on unlike data.
    """
    norms = _norm_ratios(members(cells, task), task_key(cells, task))
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
    values = values[np.isfinite(values["value"])]
    yield values.assign(method=cell.method, seed=cell.seed)


def _norm_ratios(cells: Sequence[Cell], key: str) -> Iterator[pd.DataFrame]:
    """Velocity norm over the base's on the same image."""
    norms = [
        table.to_pandas().assign(method=cell.method, seed=cell.seed)
        for cell in cells
        if (table := cell.norms(key)) is not None
    ]
    if norms:
        # Stored as float32, which would round ratios near 1 and, below, small differences.
        frame = pd.concat(norms).rename(columns={"row": "label"}).astype({"norm": np.float64})
        frame["norm"] = frame["norm"].where(np.isfinite(frame["norm"]))
        units = frame["label"].map(frame[frame["method"] == BASE].set_index("label")["norm"])
        frame = frame.assign(quantity="velocity_norm", value=frame["norm"] / units)
        # An image that was not followed in the base has no ratio.
        yield frame[(units > 0) & frame["norm"].notna()].drop(columns="norm")


def _points(task: str, quantity: str, values: pd.DataFrame) -> Iterator[CurvePoint]:
    for method in ordered_methods(set(values["method"])):
        # Every step on its own, so that another snapshot does not move the numbers of this one.
        for step, at in values[values["method"] == method].groupby("step"):
            table = cluster(at["value"], at["label"], seeds=at["seed"])
            yield curve_point(task, quantity, method, step, mean_interval(table), {})
