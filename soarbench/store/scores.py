"""Reads what a cell measured: scores of images, and what training logged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from soarbench.stats.clusters import FloatArray, IntArray
from soarbench.store.cells import Cell, StoreError

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
    return sorted(found, key=lambda one: (one.evaluator, one.suite, one.step))


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
