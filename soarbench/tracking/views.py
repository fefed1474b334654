"""What MLflow's pages say and show of a grid: descriptions, saved views, links and tables."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw

from soarbench.store.cells import Cell
from soarbench.store.facts import metric_facts
from soarbench.store.tables import StoredTables

#: Of a sheet; sides in pixels.
_COLUMNS, _ROWS, _SIDE, _CAPTION_HEIGHT = 6, 4, 160, 36
#: Statistics of images that are logged; columns of a probe's ``images``, the last ones maybe.
_STATISTICS = ("entropy", "edge_density", "saturation", "brightness", "diversity", "lpips", "vendi")


class Value(NamedTuple):
    """One number of a cell at a step."""

    key: str
    step: int
    value: float


def _state(*tags: str, **more: object) -> dict[str, object]:
    """What MLflow's page stores of a view itself, in a form that is not documented."""
    groups = [{"mode": "tag", "groupByData": tag} for tag in tags]
    grouping = {"aggregateFunction": "average", "groupByKeys": groups}
    return {"searchFilter": "tags.kind = 'cell'", "groupBy": grouping, **more}


#: Saved views by key: what each shows, how it is opened, and its state. A reader opens one with a
#: link instead of a dozen clicks.
_VIEWS = {
    "methods": (
        "curves of every metric, a line a task and method, mean over seeds",
        "&compareRunsMode=CHART", _state("task", "method", compareRunsMode="CHART"),
    ),
    "cells": (
        "table of all cells by task: scores, oracles and cost", "",
        _state("task", selectedColumns=[
            "tags.`method`", "tags.`seed`",
            "metrics.`eval/aesthetic/mean`", "metrics.`eval/clipscore/mean`",
            "metrics.`oracle/aesthetic/mean`", "metrics.`oracle/geneval/overall`",
            "metrics.`budget/forward_equivalents`", "metrics.`budget/seconds`",
        ]),
    ),
}  # fmt: skip


def view_links(experiment_id: str) -> dict[str, str]:
    """The pages worth opening of an experiment: what they show, and their path."""
    place = f"#/experiments/{experiment_id}/runs?viewStateShareKey"
    return {about: f"{place}={key}{mode}" for key, (about, mode, _) in _VIEWS.items()}


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
    views = {f"mlflow.sharedViewState.{key}": json.dumps(view[2]) for key, view in _VIEWS.items()}
    # Of other kinds MLflow's page shows traces of a chat model, of which there are none.
    kind = "custom_model_development"
    return {"mlflow.note.content": note, "mlflow.experimentKind": kind, **views}


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
    """A cell in words."""
    task, last = cell.config.get("task"), cell.steps[-1]
    text = "The base model, untouched: what every method starts from."
    if isinstance(task, Mapping):
        text = (
            f"**{cell.method}** on task **{cell.task}** ({task['description']}), training seed "
            f"{cell.seed}, decided by `{cell.final_metric}`."
        )
    numbers = [
        f"`{value.key}` {value.value:.4f}"
        for value in score_values(cell)
        if value.step == last and not value.key.endswith("/unscored")
    ]
    spent = [f"{value:,.0f} {key.replace('_', ' ')}" for key, value in cell.budget.items()]
    lines = [
        text,
        # High up: the page folds a note after its first lines.
        f"At step {last}: {', '.join(numbers)}.",
        f"Training spent {', '.join(spent)}." if spent else "",
        "Images are in the artifacts' `sheets/`, all numbers in `summary.csv`.",
    ]
    return "\n\n".join(line for line in lines if line)


def summary_csv(values: Sequence[Value]) -> str:
    """Numbers as a table that MLflow's page shows: a row a step, a column a metric."""
    frame = pd.DataFrame(values, columns=["key", "step", "value"])
    table = frame.pivot_table("value", "step", "key", "last")
    # Judges first, then oracles: a wide table is read from the left.
    ranks = {"eval": 0, "oracle": 1}
    keys = sorted(table.columns, key=lambda key: (ranks.get(key.partition("/")[0], 2), key))
    return str(table[keys].to_csv(lineterminator="\n"))


def score_values(cell: Cell) -> Iterator[Value]:
    """``eval/<evaluator>/<key>`` and ``oracle/<evaluator>/<key>`` at every evaluated step."""
    assert isinstance(cell.tables, StoredTables), "an export is not logged"
    protocols = {judge: facts for (_, judge), facts in cell.protocols().items()}
    for judge, step, numbers in cell.tables.summaries():
        is_oracle = metric_facts(judge, protocols[judge], cell.cell_id).is_oracle
        prefix = f"oracle/{judge.removeprefix('oracle_')}" if is_oracle else f"eval/{judge}"
        for key, value in numbers.items():
            if math.isfinite(value):
                yield Value(f"{prefix}/{key}", step, float(value))


def diagnostic_values(cell: Cell) -> Iterator[Value]:
    """``diagnostics/...``: means over images, and of a trained cell over followed images."""
    statistics, key = cell.statistics(), cell.data_key
    if statistics is not None:
        names = [name for name in _STATISTICS if name in statistics.column_names]
        yield from _means(statistics, {name: name for name in names})
    norms = None if key is None else cell.norms(key)
    if key is None or norms is None:
        return
    yield from _means(norms, {"norm": "velocity_norm"})
    exposure = cell.exposure(key)
    if exposure is None:
        return
    for (measure, level, step), own in exposure.to_pandas().groupby(["measure", "level", "step"]):
        yield Value(f"diagnostics/{measure}_at_{level:.2f}", int(step), float(own["value"].mean()))


def _means(table: pa.Table, names: Mapping[str, str]) -> Iterator[Value]:
    """Mean of each column at each step under a name, without what is null."""
    means = table.group_by("step").aggregate([(column, "mean") for column in names])
    for row in sorted(means.to_pylist(), key=lambda row: row["step"]):
        for column, name in names.items():
            # Diversity is null where a prompt has one image.
            if row[f"{column}_mean"] is not None:
                yield Value(f"diagnostics/{name}", row["step"], row[f"{column}_mean"])


def sample_sheet(cell: Cell, step: int) -> Image.Image:
    """Images of evenly spaced prompts with their prompts; the same ones at every step."""
    rows = cell.tables.scores().select(["prompt_id", "prompt", "image_index"]).to_pylist()
    # An image has a row a judge and step.
    pairs = list({(row["prompt_id"], row["image_index"]): row["prompt"] for row in rows}.items())
    count = min(_COLUMNS * _ROWS, len(pairs))
    height = _SIDE + _CAPTION_HEIGHT
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, -(-count // _COLUMNS) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for place in range(count):
        (prompt_id, index), prompt = pairs[place * len(pairs) // count]
        x, y = place % _COLUMNS * _SIDE, place // _COLUMNS * height
        image = cell.image(step, prompt_id, index)
        if image is not None:
            sheet.paste(image.convert("RGB").resize((_SIDE - 4,) * 2), (x + 2, y + 2))
        # Three lines of 25 letters fill the caption of Pillow's own font.
        caption = "\n".join(textwrap.wrap(prompt, 25)[:3])
        pen.multiline_text((x + 3, y + _SIDE), caption, fill="black", spacing=1)
    return sheet
