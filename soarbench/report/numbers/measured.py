"""Scores of one thing that can be compared: a cell, or images that ``score`` judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soarbench.common.errors import UserError
from soarbench.common.files import read_json
from soarbench.stats.clusters import FloatArray
from soarbench.store.cells import Cell, Facts
from soarbench.store.facts import MetricFacts, metric_facts
from soarbench.store.scores import ScoreSet

Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All scores of one judge on one suite.

    Attributes:
        source: Where they lie, for messages.
        evaluator: The metric's name.
        facts: About the metric.
        suite: The prompts' name.
        prompts: Prompt of each image; (N,), sorted, then by image.
        images: Name of each image; (N,).
        values: Scores; (N,), nan where the measurement failed.
        strata: Stratum of each image's prompt where the metric is a macro mean; (N,), else None.
        fingerprint: Of the protocol.
        protocol: What stands behind it; empty where it was not kept.
    """

    source: str
    evaluator: str
    facts: MetricFacts
    suite: str
    prompts: np.ndarray
    images: np.ndarray
    values: FloatArray
    strata: np.ndarray | None
    fingerprint: str
    protocol: Facts


def of_cell(cell: Cell, step: int | None) -> dict[Key, Measured]:
    """A cell's scores by (suite, evaluator).

    Args:
        cell: A finished one.
        step: Of training; None takes the last one.

    Raises:
        UserError: There is no such step, or as ``Cell.scores``.
    """
    step = cell.steps[-1] if step is None else step
    if step not in cell.steps:
        steps = ", ".join(str(one) for one in cell.steps)
        raise UserError(f"step={step}: {cell.cell_id} was evaluated at {steps}")
    protocols = cell.protocols()
    return {
        (one.suite, one.evaluator): _of_set(
            cell, one, protocols.get((one.suite, one.evaluator), {})
        )
        for one in sorted(cell.scores(), key=lambda one: cell.metrics.index(one.evaluator))
        if one.step == step
    }


def _of_set(cell: Cell, scores: ScoreSet, protocol: Facts) -> Measured:
    facts = metric_facts(scores.evaluator, protocol, cell.cell_id)
    tags = cell.tags(scores.evaluator) if facts.is_macro_mean else {}
    return Measured(
        source=cell.cell_id,
        evaluator=scores.evaluator,
        facts=facts,
        suite=scores.suite,
        prompts=scores.prompts,
        images=scores.images,
        values=scores.values,
        strata=_strata(scores.prompts, tags, cell.cell_id) if facts.is_macro_mean else None,
        fingerprint=scores.fingerprint,
        protocol=protocol,
    )


def _strata(prompts: np.ndarray, tags: Mapping[str, str], source: str) -> np.ndarray:
    """The tag of each image's prompt; a prompt that failed everywhere has no weight in any."""
    if not tags:
        raise UserError(f"{source}: no score names its 'tag', so there are no task means")
    # It is nan everywhere, so that any stratum will do.
    anywhere = next(iter(tags.values()))
    return np.array([tags.get(str(prompt), anywhere) for prompt in prompts])


def of_scored(path: Path) -> dict[Key, Measured]:
    """Scores that ``score`` wrote, by (suite, evaluator).

    Args:
        path: Its output folder, or one judge's ``.jsonl`` file in it.

    Raises:
        UserError: There are no whole scores, or they are damaged.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    # Scoring that was interrupted has covered some prompts only.
    files = [file for file in files if not file.name.endswith(".partial.jsonl")]
    if not files:
        raise UserError(
            f"{path} holds no finished scores (JUDGE.jsonl); make them with "
            "`python -m soarbench score suite=NAME images=DIR`"
        )
    return {(one.suite, one.evaluator): one for one in map(_of_file, files)}


def _of_file(path: Path) -> Measured:
    summary_path = path.with_name(f"{path.stem}.summary.json")
    summary = read_json(summary_path) if summary_path.is_file() else {}
    stored = summary.get("protocol")
    protocol = stored if isinstance(stored, dict) else {}
    evaluator = str(summary.get("evaluator", path.stem))
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line]
        rows = sorted(lines, key=lambda row: (str(row["prompt_id"]), str(row["sample_id"])))
        prompts = np.array([str(row["prompt_id"]) for row in rows])
        values = [np.nan if row["value"] is None else float(row["value"]) for row in rows]
        prints = {str(row["fingerprint"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged or no file of scores ({error!r})") from error
    # A resumed scoring by another version would leave two kinds of numbers in one file.
    if len(prints) != 1:
        raise UserError(f"{path} holds {len(prints)} fingerprints; score the images again")
    tags = {str(row["prompt_id"]): str(row["tag"]) for row in rows if "tag" in row}
    facts = metric_facts(evaluator, protocol, str(path))
    return Measured(
        source=str(path),
        evaluator=evaluator,
        facts=facts,
        suite=str(summary.get("suite", "")),
        prompts=prompts,
        images=np.array([str(row["sample_id"]) for row in rows]),
        values=np.array(values, dtype=np.float64),
        strata=_strata(prompts, tags, str(path)) if facts.is_macro_mean else None,
        fingerprint=prints.pop(),
        protocol=protocol,
    )
