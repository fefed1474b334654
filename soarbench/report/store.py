"""Reads the cells of a grid's run folder, and nothing else of the machinery that wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from soarbench.errors import UserError
from soarbench.files import read_json
from soarbench.report.metrics import BASE
from soarbench.stats.clusters import FloatArray, IntArray

FINISHED = "finished"
SCORE_COLUMNS = (
    "step",
    "evaluator",
    "suite",
    "prompt_id",
    "image_index",
    "value",
    "reason",
    "fingerprint",
)


class StoreError(UserError):
    """Stored results that cannot be reported as they are."""


class PlannedCell(Protocol):
    """What a launch intended; ``soarbench.config.CellConfig`` is one."""

    @property
    def cell_id(self) -> str:
        """Address of the cell; name of its folder."""

    @property
    def task_name(self) -> str:
        """Name of the task; ``base`` for the base model."""

    @property
    def method_name(self) -> str:
        """Name of the method; ``base`` for the base model."""

    @property
    def seed(self) -> int:
        """Training seed."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell, as its ``config.json`` and ``status.json`` describe it.

    Attributes:
        folder: Where it lies.
        cell_id: Its address.
        task: Name; ``base`` for the base model.
        method: Name.
        seed: Of training.
        steps: At which images were to be evaluated, ascending.
        final_metric: Evaluator that decides; None for the base model.
        metrics: All evaluators.
        state: ``finished``, ``failed``, ``running`` or ``not started``.
        reason: Why it failed.
        mlflow_run_id: Its MLflow run.
        budget: What training spent, by name.
    """

    folder: Path
    cell_id: str
    task: str
    method: str
    seed: int
    steps: tuple[int, ...]
    final_metric: str | None
    metrics: tuple[str, ...]
    state: str
    reason: str | None
    mlflow_run_id: str | None
    budget: Mapping[str, float]

    @property
    def is_base(self) -> bool:
        """Whether it is the untouched model, which all tasks share."""
        return self.task == BASE


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Something that should be in the report and is not.

    Attributes:
        cell_id: Of the cell.
        task: Its task.
        method: Its method.
        seed: Its seed.
        evaluator: Whose numbers are missing; None for all.
        reason: Why.
    """

    cell_id: str
    task: str
    method: str
    seed: int
    evaluator: str | None = None
    reason: str

    def describe(self) -> str:
        """One line for people."""
        part = f", {self.evaluator}" if self.evaluator else ""
        return f"{self.cell_id}{part}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """Scores of one evaluator on one suite, of one cell at one step.

    Attributes:
        evaluator: Its name.
        suite: The suite's name.
        step: Optimiser steps before the images were made.
        prompts: Prompt of each image; (N,), sorted, then by image index.
        images: Image index; (N,).
        values: Scores; (N,), nan where the measurement failed.
        fingerprint: Of the protocol.
        reasons: Why measurements failed: reason to how many.
    """

    evaluator: str
    suite: str
    step: int
    prompts: np.ndarray
    images: IntArray
    values: FloatArray
    fingerprint: str
    reasons: Mapping[str, int]


def read_cells(
    grid_folder: Path, planned: Sequence[PlannedCell] | None = None
) -> tuple[list[Cell], list[Hole]]:
    """Read what cells there are.

    Args:
        grid_folder: ``runs/<grid>``.
        planned: The cells of a launch: others in the folder, which older configurations left, are
            passed over, and those without a folder are holes. None takes all there are.

    Returns:
        Finished cells, and a hole for each that is not; both by cell id.

    Raises:
        StoreError: No cell is finished, or two are the same method, task and seed.
    """
    root = grid_folder / "cells"
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if planned is not None:
        wanted = {cell.cell_id for cell in planned}
        folders = [folder for folder in folders if folder.name in wanted]
    cells = [_read_cell(folder) for folder in folders if (folder / "config.json").is_file()]
    holes = [_hole(cell) for cell in cells if cell.state != FINISHED]
    if planned is not None:
        present = {cell.cell_id for cell in cells}
        holes += [
            Hole(
                cell_id=cell.cell_id,
                task=cell.task_name,
                method=cell.method_name,
                seed=cell.seed,
                reason="not started",
            )
            for cell in planned
            if cell.cell_id not in present
        ]
    finished = [cell for cell in cells if cell.state == FINISHED]
    if not finished:
        told = "; ".join(hole.describe() for hole in holes[:3])
        raise StoreError(
            f"{root} holds no finished cell" + (f" ({told})" if told else "") + "; run "
            f"`python -m soarbench run grid={grid_folder.name}` first, or name its output_dir="
        )
    _refuse_twins(finished)
    return finished, sorted(holes, key=lambda hole: hole.cell_id)


def _hole(cell: Cell) -> Hole:
    """What an unfinished cell leaves open."""
    reason = cell.state if cell.reason is None else f"{cell.state}: {cell.reason}"
    return Hole(
        cell_id=cell.cell_id, task=cell.task, method=cell.method, seed=cell.seed, reason=reason
    )


def _refuse_twins(cells: Sequence[Cell]) -> None:
    found: dict[tuple[str, str, int], Cell] = {}
    for cell in cells:
        other = found.setdefault((cell.task, cell.method, cell.seed), cell)
        if other is not cell:
            raise StoreError(
                f"{cell.cell_id} and {other.cell_id} are the same method, task and seed with "
                "different configurations; report with the overrides of the one you mean, or "
                f"remove the other from {cell.folder.parent}"
            )


def _read_cell(folder: Path) -> Cell:
    config = read_json(folder / "config.json")
    status_path = folder / "status.json"
    status = read_json(status_path) if status_path.is_file() else {"state": "not started"}
    try:
        final_metric, reason = config["final_metric"], status.get("reason")
        run_id, budget = status.get("mlflow_run_id"), status.get("budget") or {}
        return Cell(
            folder=folder,
            cell_id=str(config["cell_id"]),
            task=str(config["task"]),
            method=str(config["method"]),
            seed=int(str(config["seed"])),
            steps=tuple(int(step) for step in _items(config["steps"])),
            final_metric=None if final_metric is None else str(final_metric),
            metrics=_items(config["metrics"]),
            state=str(status["state"]),
            reason=None if reason is None else str(reason),
            mlflow_run_id=None if run_id is None else str(run_id),
            budget=_numbers(budget),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{folder}: config.json or status.json was written by another version ({error!r}); "
            "delete the folder and run the grid again"
        ) from error


def _items(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(str(item) for item in value)


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    return {str(name): float(number) for name, number in value.items()}


def read_scores(cell: Cell, pool: dict[bytes, np.ndarray] | None = None) -> list[ScoreSet]:
    """Read a cell's ``scores.parquet``.

    Args:
        cell: A finished one.
        pool: Label arrays seen so far. Cells judged on the same images then share them, which keeps
            a thousand cells in memory.

    Raises:
        StoreError: It is missing, damaged, of another version, or holds an image twice.
    """
    path = cell.folder / "scores.parquet"
    table = _read_table(path, SCORE_COLUMNS)
    codes, labels = _group_codes(table, ("evaluator", "suite", "step", "fingerprint"))
    prompt_codes, prompt_labels = _encoded(table.column("prompt_id"))
    # Sorted labels make the order of codes the order of prompts.
    ranks = np.argsort(np.argsort(prompt_labels))
    prompt_labels, prompt_codes = np.sort(prompt_labels), ranks[prompt_codes]
    images = table.column("image_index").to_numpy().astype(np.intp)
    values = table.column("value").to_numpy().astype(np.float64)
    reasons = table.column("reason")
    order = np.lexsort((images, prompt_codes, codes))
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    pool = {} if pool is None else pool
    found = []
    for rows in np.split(order, starts[1:]):
        evaluator, suite, step, fingerprint = labels[codes[rows[0]]]
        failed = rows[np.isnan(values[rows])]
        found.append(
            ScoreSet(
                evaluator=evaluator,
                suite=suite,
                step=int(step),
                prompts=_shared(prompt_labels[prompt_codes[rows]], pool),
                images=_shared(images[rows], pool),
                values=values[rows],
                fingerprint=fingerprint,
                reasons=_counted(reasons.take(pa.array(failed))) if failed.size else {},
            )
        )
    for scores in found:
        _refuse_repeats(scores, path)
    return found


def _shared(array: np.ndarray, pool: dict[bytes, np.ndarray]) -> np.ndarray:
    """The pool's array of the same content."""
    return pool.setdefault(array.tobytes(), array)


def _read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    if not path.is_file():
        raise StoreError(f"{path} is missing; delete {path.parent} and run the grid again")
    try:
        file = pq.ParquetFile(path)
        lacking = [name for name in columns if name not in file.schema_arrow.names]
        if lacking:
            raise StoreError(
                f"{path} has no column {', '.join(lacking)}: another version wrote it; delete "
                f"{path.parent} and run the grid again"
            )
        return file.read(columns=list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(
            f"{path} is damaged ({error}); delete {path.parent} and run the grid again"
        ) from error


def _encoded(column: pa.ChunkedArray) -> tuple[IntArray, np.ndarray]:
    """A column as codes (N,) and what they stand for."""
    encoded = column.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    labels = np.asarray(encoded.dictionary.to_pylist(), dtype=np.str_)
    return encoded.indices.to_numpy().astype(np.intp), labels


def _group_codes(
    table: pa.Table, columns: Sequence[str]
) -> tuple[IntArray, Mapping[int, tuple[str, ...]]]:
    """One code a row for the values of several columns together, and what each code stands for."""
    codes = np.zeros(table.num_rows, dtype=np.intp)
    parts = [_encoded(table.column(name)) for name in columns]
    for part, labels in parts:
        codes = codes * max(labels.size, 1) + part
    found, first = np.unique(codes, return_index=True)
    return codes, {
        int(code): tuple(str(labels[part[row]]) for part, labels in parts)
        for code, row in zip(found, first, strict=True)
    }


def _counted(reasons: pa.ChunkedArray) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons.to_pylist():
        text = "no reason given" if reason is None else str(reason)
        counts[text] = counts.get(text, 0) + 1
    return counts


def _refuse_repeats(scores: ScoreSet, path: Path) -> None:
    repeated = (scores.prompts[1:] == scores.prompts[:-1]) & (np.diff(scores.images) == 0)
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        raise StoreError(
            f"{path}: {scores.evaluator} scored image {scores.images[row]} of prompt "
            f"{scores.prompts[row]!r} more than once at step {scores.step}; delete "
            f"{path.parent} and run the grid again"
        )


def read_details(cell: Cell, evaluator: str) -> Iterator[tuple[str, str]]:
    """The prompt and the details (JSON) of an evaluator's rows.

    Raises:
        StoreError: As ``read_scores``.
    """
    columns = ("evaluator", "prompt_id", "details")
    table = _read_table(cell.folder / "scores.parquet", columns)
    codes, labels = _encoded(table.column("evaluator"))
    rows = np.flatnonzero(labels[codes] == evaluator)
    taken = table.take(pa.array(rows))
    prompts, details = taken.column("prompt_id").to_pylist(), taken.column("details").to_pylist()
    return zip(prompts, details, strict=True)


def read_training(cell: Cell) -> dict[str, tuple[IntArray, FloatArray]]:
    """What training logged: key to (steps, values), by rising step; empty without a log.

    Raises:
        StoreError: The file is damaged or of another version.
    """
    path = cell.folder / "training.parquet"
    if not path.is_file():
        return {}
    table = _read_table(path, ("step", "key", "value"))
    codes, labels = _encoded(table.column("key"))
    steps = table.column("step").to_numpy().astype(np.intp)
    values = table.column("value").to_numpy().astype(np.float64)
    order = np.lexsort((steps, codes))
    found = {}
    for code, label in enumerate(labels):
        rows = order[codes[order] == code]
        found[str(label)] = (steps[rows], values[rows])
    return found
