"""Scores of one thing that can be compared: a cell, or images that ``score`` judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from soarbench.common.errors import UserError
from soarbench.common.files import read_json
from soarbench.common.strict import build
from soarbench.store.artefact import Extent
from soarbench.store.cells import Cell
from soarbench.store.facts import MetricFacts, metric_facts
from soarbench.store.judged import ScoresFolder
from soarbench.store.scores import ScoreSet, score_sets, tags_of
from soarbench.store.tables import Facts

#: Suite and evaluator.
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All scores of one judge on one suite.

    Attributes:
        source: Where they lie, for messages.
        tags: Stratum of each prompt where the metric is a macro mean, without prompts that failed
            everywhere; else empty.
        protocol: What stands behind the fingerprint; empty where it was not kept.
    """

    source: str
    facts: MetricFacts
    scores: ScoreSet
    tags: Mapping[str, str]
    protocol: Facts


def of_cell(cell: Cell, step: int | None) -> dict[Key, Measured]:
    """A finished cell's scores after ``step``, None: at its end; ``UserError``: no such step."""
    step = cell.steps[-1] if step is None else step
    if step not in cell.steps:
        steps = ", ".join(str(one) for one in cell.steps)
        raise UserError(f"step={step}: {cell.cell_id} was evaluated at {steps}")
    table, protocols = cell.tables.scores(), cell.protocols()
    sets = [one for one in score_sets(table, cell.cell_id) if one.step == step]
    return {
        (one.suite, one.evaluator): _measured(
            one, table, protocols.get((one.suite, one.evaluator), {}), cell.cell_id
        )
        for one in sorted(sets, key=lambda one: cell.metrics.index(one.evaluator))
    }


def of_scored(path: Path) -> dict[Key, Measured]:
    """Scores in an output folder of ``score`` or ``evaluate``; ``UserError`` where not whole."""
    if not (path / "summary.json").is_file():
        raise UserError(
            f"{path} holds no finished scores (summary.json); make them with "
            "`python -m soarbench score suite=NAME images=DIR`"
        )
    judges = read_json(path / "summary.json").get("judges")
    if not isinstance(judges, Mapping):
        if (path.parent / "summary.json").is_file():
            raise UserError(f"{path} holds the scores of one judge; name {path.parent}")
        raise UserError(
            f"{path / 'summary.json'} names no judges: another version wrote it; score the images "
            "again into another output"
        )
    scored = [of_judge(path, name, summary) for name, summary in judges.items()]
    return {(one.scores.suite, one.facts.name): one for one in scored}


def of_judge(path: Path, name: str, summary: Mapping[str, object]) -> Measured:
    """One judge's scores in such a folder, by what the folder's summary says of them."""
    folder = ScoresFolder(path / str(summary["scores"]))
    extent = summary.get("extent")
    part = build(Extent, extent, str(path)) if isinstance(extent, Mapping) else None
    rows = folder.part(part)
    # What is one in a folder has a column in a cell's table, which the sets are made of.
    names = {"step": pa.scalar(0, pa.int64()), "evaluator": name, "suite": str(summary["suite"])}
    for column, value in names.items():
        rows = rows.append_column(column, pa.repeat(value, rows.num_rows))
    sets = score_sets(rows, str(folder.root))
    if len(sets) != 1:
        raise UserError(f"{folder.root} holds {len(sets)} fingerprints; score the images again")
    return _measured(sets[0], rows, folder.protocol(), str(path))


def _measured(scores: ScoreSet, table: pa.Table, protocol: Facts, source: str) -> Measured:
    """Scores, with what the table that they are from says of their prompts."""
    facts = metric_facts(scores.evaluator, protocol, source)
    tags = tags_of(table, scores.evaluator) if facts.is_macro_mean else {}
    if facts.is_macro_mean and not tags:
        raise UserError(f"{source}: no score names its 'tag', so there are no task means")
    return Measured(source=source, facts=facts, scores=scores, tags=tags, protocol=protocol)
