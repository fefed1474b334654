"""What MLflow's pages say and show of a grid: descriptions, saved views, links and tables."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw

from soarbench.store.cells import Cell
from soarbench.store.facts import metric_facts
from soarbench.store.tables import StoredTables

#: Of a sheet; sides in pixels.
_COLUMNS, _ROWS, _SIDE, _CAPTION_HEIGHT = 6, 4, 160, 36
#: Key of sample sheets.
SHEETS = "samples"
#: Else a link opens the side bar for chat models.
_WORKFLOW = "workflowType=machine_learning"
#: Statistics of images that are logged; columns of a probe's ``images``, the last ones maybe.
_STATISTICS = ("entropy", "edge_density", "saturation", "brightness", "diversity", "lpips", "vendi")


#: Name spaces of metrics in the order in which they are read.
_NAME_SPACES = ("final", "eval", "oracle", "signs", "rollout", "train", "spent")
#: Of charts, before those that the page adds; the second has curves of each judge, and images.
_SECTIONS = ("final", "Model metrics")


class Value(NamedTuple):
    """One number of a cell at a step."""

    key: str
    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a judge came to at a step, on a suite.

    Attributes:
        judge: Its name, with the suite's where it judged several.
        prefix: Of the names of its numbers: ``eval/JUDGE`` or ``oracle/JUDGE``.
        numbers: Its summary, without what could not be measured.
        headline: The number that tables show; None where nothing could be measured.
    """

    judge: str
    suite: str
    step: int
    prefix: str
    numbers: Mapping[str, float]
    headline: float | None


def _state(*tags: str, **more: object) -> dict[str, object]:
    """What MLflow's page stores of a view itself, in a form that is not documented."""
    groups = [{"mode": "tag", "groupByData": tag} for tag in tags]
    grouping = {"aggregateFunction": "average", "groupByKeys": groups} if tags else None
    return {"searchFilter": "tags.kind = 'cell'", "groupBy": grouping, **more}


def _charts(*names: str, charts: Sequence[Mapping[str, object]] = ()) -> dict[str, object]:
    """Sections that come first; the page fills them, and adds those of other metrics."""
    flags = {"display": True, "isReordered": True, "deleted": False, "isGenerated": True}
    # A sheet is as wide as the page.
    sizes = {SHEETS: {"columns": 1, "cardHeight": 720}}
    sections = [{"uuid": name, "name": name, **flags, **sizes.get(name, {})} for name in names]
    return {
        "compareRunsMode": "CHART", "isAccordionReordered": True,
        "compareRunCharts": list(charts), "compareRunSections": sections,
    }  # fmt: skip


#: All cells' sample sheets, with one slider for the step.
_IMAGE_GRID = {
    "type": "IMAGE", "uuid": SHEETS, "metricSectionId": SHEETS, "imageKeys": [SHEETS], "step": 0,
    "showRunParams": False, "runsCountToCompare": 20, "isGenerated": False, "deleted": False,
}  # fmt: skip


#: Saved views by key: what each shows, how it is opened, and its state. A reader opens one with a
#: link instead of a dozen clicks.
_VIEWS = {
    "methods": (
        "final scores, then curves of every metric: a line a configuration, mean over seeds",
        "&compareRunsMode=CHART",
        _state("configuration", **_charts(*_SECTIONS)),
    ),
    "samples": (
        "samples of every cell, with a slider for the step", "&compareRunsMode=CHART",
        _state(**_charts(SHEETS, charts=[_IMAGE_GRID])),
    ),
    "cells": (
        "table of all cells by task: scores, oracles and cost", "",
        _state("task", selectedColumns=[
            "tags.`configuration`", "tags.`seed`",
            "metrics.`final/geneval`", "metrics.`final/aesthetic`", "metrics.`final/clipscore`",
            "metrics.`final/ocr`",
            "metrics.`spent/forward_equivalents`", "metrics.`spent/seconds`",
        ]),
    ),
}  # fmt: skip


def view_links(experiment_id: str) -> dict[str, str]:
    """The pages worth opening of an experiment: what they show, and their path."""
    place = f"#/experiments/{experiment_id}/runs?{_WORKFLOW}&viewStateShareKey"
    links = {about: f"{place}={key}{mode}" for key, (about, mode, _) in _VIEWS.items()}
    about = "checkpoints with their scores and datasets, searchable by metrics.JUDGE"
    return {**links, about: f"#/experiments/{experiment_id}/models?{_WORKFLOW}"}


def experiment_tags(grid: str, experiment_id: str) -> dict[str, str]:
    """Tags of a grid's experiment: its description, its kind and its saved views."""
    links = "\n".join(f"- [{about}]({path})" for about, path in view_links(experiment_id).items())
    note = (
        f"Grid `{grid}` of soarbench. A parent run is a launch; each of its children is a cell: "
        f"one method, task and seed.\n\n{links}\n\n"
        "Metrics: `final/` each judge at the last step, `eval/` learned judges at every step, "
        "`oracle/` exact ones (the laboratory alone), `signs/` signs of gaming, `train/` and "
        "`rollout/` training, `spent/` what it cost, `system/` the machine meanwhile. "
        "Paired differences with intervals are metrics of the launch, `difference/`; verdicts are "
        "in its report, an artifact."
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
    numbers = [f"`{one.key}` {one.value:.4f}" for one in final_values(cell)]
    spent = [f"{value:,.0f} {key.replace('_', ' ')}" for key, value in cell.budget.items()]
    lines = [
        text,
        # High up: the page folds a note after its first lines.
        f"At step {last}: {', '.join(numbers)}.",
        f"Training spent {', '.join(spent)}." if spent else "",
        "Images of every step are in the image grid, all numbers in `summary.csv`. Its checkpoints "
        "are logged models, which name the folders of their weights.",
    ]
    return "\n\n".join(line for line in lines if line)


def summary_csv(values: Sequence[Value]) -> str:
    """Numbers as a table that MLflow's page shows: a row a step, a column a metric."""
    frame = pd.DataFrame(values, columns=["key", "step", "value"])
    table = frame.pivot_table("value", "step", "key", "last")
    # A wide table is read from the left.
    ranks = {name: rank for rank, name in enumerate(_NAME_SPACES)}
    keys = sorted(table.columns, key=lambda key: (ranks[key.partition("/")[0]], key))
    return str(table[keys].to_csv(lineterminator="\n"))


def scores(cell: Cell) -> Iterator[Scored]:
    """What every judge came to at every evaluated step."""
    assert isinstance(cell.tables, StoredTables), "an export is not logged"
    protocols = cell.protocols()
    counts = Counter(judge for _, judge in protocols)
    for suite, judge, step, numbers in cell.tables.summaries():
        facts = metric_facts(judge, protocols[suite, judge], cell.cell_id)
        # The base alone is judged on the suites of every task.
        own = f"/{suite}" if counts[judge] > 1 else ""
        name = f"oracle/{judge.removeprefix('oracle_')}" if facts.is_oracle else f"eval/{judge}"
        measured = {key: value for key, value in numbers.items() if math.isfinite(value)}
        yield Scored(
            judge=judge + own, suite=suite, step=step, numbers=measured, prefix=name + own,
            headline=measured.get("overall" if facts.is_macro_mean else "mean"),
        )  # fmt: skip


def score_values(cell: Cell) -> Iterator[Value]:
    """``eval/<evaluator>/<key>`` and ``oracle/<evaluator>/<key>`` at every evaluated step."""
    for score in scores(cell):
        for key, value in score.numbers.items():
            yield Value(f"{score.prefix}/{key}", score.step, value)


def final_values(cell: Cell) -> Iterator[Value]:
    """``final/<evaluator>``: what tables show, of the last step."""
    for score in scores(cell):
        if score.step == cell.steps[-1] and score.headline is not None:
            # Of metrics with one step, and the same one in all runs, the page draws bars.
            yield Value(f"final/{score.judge}", 0, score.headline)


def diagnostic_values(cell: Cell) -> Iterator[Value]:
    """``signs/...``: means over images, and of a trained cell over followed images."""
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
        yield Value(f"signs/{measure}_at_{level:.2f}", int(step), float(own["value"].mean()))


def _means(table: pa.Table, names: Mapping[str, str]) -> Iterator[Value]:
    """Mean of each column at each step under a name, without what is null."""
    means = table.group_by("step").aggregate([(column, "mean") for column in names])
    for row in sorted(means.to_pylist(), key=lambda row: row["step"]):
        for column, name in names.items():
            # Diversity is null where a prompt has one image.
            if row[f"{column}_mean"] is not None:
                yield Value(f"signs/{name}", row["step"], row[f"{column}_mean"])


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
