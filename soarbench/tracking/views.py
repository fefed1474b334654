"""What MLflow's pages say and show of a grid: descriptions, saved views, links and tables."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from soarbench.store.cells import Cell
from soarbench.store.facts import metric_facts
from soarbench.store.tables import StoredTables

_ORACLE = "oracle_"
_VIEW_TAG = "mlflow.sharedViewState."
_CELLS_ONLY = "tags.kind = 'cell'"
#: Statistics of images that are logged; columns of ``files.images_path``.
_STATISTICS = ("entropy", "edge_density", "saturation", "brightness", "diversity")


class Value(NamedTuple):
    """One number of a cell at a step."""

    key: str
    step: int
    value: float


def _grouped_by(*tags: str) -> dict[str, object]:
    keys = [{"mode": "tag", "groupByData": tag} for tag in tags]
    return {"aggregateFunction": "average", "groupByKeys": keys}


#: Saved views by key, in the form that MLflow's page stores itself: what is grouped and how it is
#: shown. A reader opens one with a link instead of a dozen clicks.
VIEWS: Mapping[str, Mapping[str, object]] = {
    "methods": {
        "searchFilter": _CELLS_ONLY,
        "groupBy": _grouped_by("task", "method"),
        "compareRunsMode": "CHART",
    },
    "cells": {
        "searchFilter": _CELLS_ONLY,
        "groupBy": _grouped_by("task"),
        "selectedColumns": [
            "tags.`method`",
            "tags.`seed`",
            "metrics.`eval/aesthetic/mean`",
            "metrics.`eval/clipscore/mean`",
            "metrics.`oracle/aesthetic/mean`",
            "metrics.`oracle/geneval/overall`",
            "metrics.`budget/forward_equivalents`",
            "metrics.`budget/seconds`",
        ],
    },
}
_ABOUT = {
    "methods": "curves of every metric, a line a task and method, mean over seeds",
    "cells": "table of all cells by task: scores, oracles and cost",
}


def view_links(experiment_id: str) -> dict[str, str]:
    """The pages worth opening of an experiment: what they show, and their path."""
    place = f"#/experiments/{experiment_id}/runs?viewStateShareKey"
    modes = {"methods": "&compareRunsMode=CHART", "cells": ""}
    return {_ABOUT[key]: f"{place}={key}{modes[key]}" for key in VIEWS}


def experiment_tags(grid: str, experiment_id: str) -> dict[str, str]:
    """Tags of a grid's experiment: its description, its kind and its saved views."""
    links = "\n".join(f"- [{about}]({path})" for about, path in view_links(experiment_id).items())
    note = (
        f"Grid `{grid}` of soarbench. A parent run is a launch; each of its children is a cell: "
        f"one method, task and seed.\n\n{links}\n\n"
        "Metrics: `eval/` learned judges, `oracle/` exact ones (the laboratory alone), "
        "`diagnostics/` signs of gaming, `train/` and `rollout/` training, `budget/` what it cost. "
        "Intervals and verdicts are in the report, an artifact of the launch."
    )
    views = {f"{_VIEW_TAG}{key}": json.dumps(view) for key, view in VIEWS.items()}
    return {
        "mlflow.note.content": note,
        "mlflow.experimentKind": "custom_model_development",
        **views,
    }


def source_tags(command: str, git_commit: str) -> dict[str, str]:
    """What MLflow shows as the source of a run: the command and the commit behind it."""
    return {
        "command": command,
        # Of a name with a slash the page shows what follows the last one.
        "mlflow.source.name": "soarbench" if "/" in command else command,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_commit,
    }


def cell_note(cell: Cell) -> str:
    """A cell in words, its numbers at the last step first, since the page folds the rest."""
    task = cell.config.get("task")
    if not isinstance(task, Mapping):
        text = "The base model, untouched: what every method starts from."
    else:
        text = (
            f"**{cell.method}** on task **{cell.task}** ({task['description']}), training seed "
            f"{cell.seed}, decided by `{cell.final_metric}`."
        )
    last = [value for value in score_values(cell) if value.step == cell.steps[-1]]
    numbers = [
        f"`{value.key}` {value.value:.4f}" for value in last if not value.key.endswith("/unscored")
    ]
    spent = [f"{value:,.0f} {key.replace('_', ' ')}" for key, value in cell.budget.items()]
    lines = [
        text,
        f"At step {cell.steps[-1]}: {', '.join(numbers)}.",
        f"Training spent {', '.join(spent)}." if spent else "",
        "Images are in the artifacts' `sheets/`, all numbers in `summary.csv`.",
    ]
    return "\n\n".join(line for line in lines if line)


def summary_csv(values: Sequence[Value]) -> str:
    """Numbers as a table that MLflow's page shows: a row a step, a column a metric."""
    keys = sorted({value.key for value in values}, key=_rank)
    at = {(value.step, value.key): value.value for value in values}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["step", *keys])
    for step in sorted({value.step for value in values}):
        writer.writerow([step, *(at.get((step, key), "") for key in keys)])
    return stream.getvalue()


def _rank(key: str) -> tuple[int, str]:
    """Judges before oracles before the rest."""
    spaces = ("eval", "oracle")
    space = key.partition("/")[0]
    return (spaces.index(space) if space in spaces else len(spaces), key)


def score_values(cell: Cell) -> Iterator[Value]:
    """``eval/<evaluator>/<key>`` and ``oracle/<evaluator>/<key>`` at every evaluated step."""
    assert isinstance(cell.tables, StoredTables), "an export is not logged"
    protocols = {judge: facts for (_, judge), facts in cell.protocols().items()}
    for judge, step, numbers in cell.tables.summaries():
        is_oracle = metric_facts(judge, protocols[judge], cell.cell_id).is_oracle
        prefix = f"oracle/{judge.removeprefix(_ORACLE)}" if is_oracle else f"eval/{judge}"
        for key, value in numbers.items():
            if math.isfinite(value):
                yield Value(f"{prefix}/{key}", step, float(value))


def diagnostic_values(cell: Cell) -> Iterator[Value]:
    """``diagnostics/...``: means over images, and of a trained cell over followed images."""
    statistics, key = cell.statistics(), cell.data_key
    if statistics is not None:
        yield from _means(statistics, _STATISTICS)
    norms = None if key is None else cell.norms(key)
    if key is None or norms is None:
        return
    columns = ["velocity_norm" if name == "norm" else name for name in norms.column_names]
    yield from _means(norms.rename_columns(columns), ("velocity_norm",))
    deviations = cell.deviations(key)
    rows = [] if deviations is None else deviations.to_pylist()
    for start in sorted({row["start"] for row in rows}):
        own = [row for row in rows if row["start"] == start]
        last = max(row["index"] for row in own)
        ends = [row["deviation"] for row in own if row["index"] == last]
        name = f"diagnostics/path_deviation_from_{start:.2f}"
        yield Value(name, own[0]["step"], sum(ends) / len(ends))


def _means(table: object, columns: Sequence[str]) -> Iterator[Value]:
    """Mean of each column at each step, without what is null."""
    import pyarrow as pa

    assert isinstance(table, pa.Table)
    means = table.group_by("step").aggregate([(name, "mean") for name in columns])
    for row in sorted(means.to_pylist(), key=lambda row: row["step"]):
        for name in columns:
            if row[f"{name}_mean"] is not None:
                yield Value(f"diagnostics/{name}", row["step"], row[f"{name}_mean"])
