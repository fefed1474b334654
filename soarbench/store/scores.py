"""Tables of scores and of training as arrays that statistics take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from soarbench.common.errors import StoreError

if TYPE_CHECKING:
    # Statistics load scipy, for which a command that only looks cannot wait.
    from soarbench.stats.clusters import FloatArray, IntArray

SCORE_COLUMNS = (
    "step", "evaluator", "suite", "prompt_id", "image_index", "value", "reason", "fingerprint",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """Scores of one evaluator on one suite, of one cell at one step.

    Attributes:
        prompts: Prompt of each image; (N,), sorted, then by image index.
        images: Image index; (N,).
        values: Scores; (N,), nan where the measurement failed.
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


def score_sets(
    table: pa.Table, where: str, pool: dict[bytes, np.ndarray] | None = None
) -> list[ScoreSet]:
    """Sort a table of scores by judge, suite and step.

    ``pool`` are label arrays seen so far, which equal ones are taken from.

    Raises:
        StoreError: It lacks one of ``SCORE_COLUMNS``, or holds an image twice; says ``where``.
    """
    lacking = [name for name in SCORE_COLUMNS if name not in table.column_names]
    if lacking:
        raise StoreError(
            f"{where} has no column {', '.join(lacking)}: another version wrote it; run the grid "
            "again"
        )
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
    # Cells judged on the same images share their labels, which keeps a thousand cells in memory.
    pool = {} if pool is None else pool
    sets = []
    for rows in np.split(order, starts[1:]):
        evaluator, suite, step, fingerprint = labels[codes[rows[0]]]
        prompts, indices = prompt_labels[prompt_codes[rows]], images[rows]
        failed = rows[np.isnan(values[rows])]
        why = reasons.take(pa.array(failed)).to_pylist()
        scores = ScoreSet(
            evaluator=evaluator, suite=suite, step=int(step),
            prompts=pool.setdefault(prompts.tobytes(), prompts),
            images=pool.setdefault(indices.tobytes(), indices),
            values=values[rows], fingerprint=fingerprint,
            reasons=Counter("no reason given" if one is None else str(one) for one in why),
        )  # fmt: skip
        _refuse_repeats(scores, where)
        sets.append(scores)
    return sorted(sets, key=lambda one: (one.evaluator, one.suite, one.step))


def _encoded(column: pa.ChunkedArray) -> tuple[IntArray, np.ndarray]:
    """A column as codes (N,) and what they stand for."""
    encoded = column.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    # Of fixed width: they share memory by their bytes, and NumPy compares them without Python.
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
    used, first = np.unique(codes, return_index=True)
    return codes, {
        int(code): tuple(str(labels[part[row]]) for part, labels in parts)
        for code, row in zip(used, first, strict=True)
    }


def _refuse_repeats(scores: ScoreSet, where: str) -> None:
    prompts, images = scores.prompts, scores.images
    # An image that counts twice would narrow the interval.
    repeated = (prompts[1:] == prompts[:-1]) & (np.diff(images) == 0)
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        raise StoreError(
            f"{where}: {scores.evaluator} scored image {images[row]} of prompt {prompts[row]!r} "
            f"more than once at step {scores.step}; export the grid again, or evaluate it in "
            "another output_dir"
        )


def tags_of(table: pa.Table, evaluator: str) -> dict[str, str]:
    """The ``tag`` in the details of a judge's rows, by prompt, where they have one."""
    codes, labels = _encoded(table.column("evaluator"))
    rows = np.flatnonzero(labels[codes] == evaluator)
    taken = table.take(pa.array(rows))
    prompts, details = taken.column("prompt_id").to_pylist(), taken.column("details").to_pylist()
    tags: dict[str, str] = {}
    for prompt, text in zip(prompts, details, strict=True):
        # All images of a prompt share its tag, so most of the JSON need not be parsed.
        if prompt not in tags and "tag" in (known := json.loads(text)):
            tags[prompt] = str(known["tag"])
    return tags


class Prompt(NamedTuple):
    """A prompt that was judged, with the first of its images."""

    prompt_id: str
    text: str
    image_index: int


def prompts_of(table: pa.Table) -> list[Prompt]:
    """Every prompt of a table of scores, by id."""
    # Old exports did not keep the words.
    text = "prompt" if "prompt" in table.column_names else "prompt_id"
    ids, texts = (table.column(name).to_pylist() for name in ("prompt_id", text))
    prompts: dict[str, Prompt] = {}
    every = map(Prompt, ids, texts, table["image_index"].to_pylist())
    for one in sorted(every, key=lambda one: one.image_index):
        prompts.setdefault(one.prompt_id, one)
    return sorted(prompts.values())


def logged_values(table: pa.Table | None) -> dict[str, tuple[IntArray, FloatArray]]:
    """What training logged: key to (steps, values), by rising step; empty without a log."""
    if table is None:
        return {}
    codes, labels = _encoded(table.column("key"))
    steps = table.column("step").to_numpy().astype(np.intp)
    values = table.column("value").to_numpy().astype(np.float64)
    order = np.lexsort((steps, codes))
    logged = {}
    for code, label in enumerate(labels):
        rows = order[codes[order] == code]
        logged[str(label)] = (steps[rows], values[rows])
    return logged
