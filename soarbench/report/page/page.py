"""The report as one self-contained HTML page: no network, styles, script and images inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from soarbench import __version__
from soarbench.config.stages import first_stage
from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.names import BASE, method_title, step_title
from soarbench.report.numbers.reference import AS_PUBLISHED, SOURCE
from soarbench.report.numbers.samples import Sample, Samples
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.numbers.thresholds import Crossing
from soarbench.report.numbers.tuning import Choice
from soarbench.report.page.figures import figures
from soarbench.report.page.sources import configurations, environment, protocols
from soarbench.report.page.tables import DataTable, data_table, methods_table, others_table
from soarbench.report.report import Report
from soarbench.report.text import frames, gaming
from soarbench.report.text.tuning import NOTE, choice_lines, tuning_texts
from soarbench.store.cells import Cell

#: Of all samples of a page, before base64 makes them a third larger.
MOST_SAMPLE_BYTES = 6_000_000
PUBLISHED_NOTE = (
    f"The first table holds numbers measured here, under the published table's columns; the second "
    f"holds numbers {AS_PUBLISHED} ({SOURCE}): another model, other prompts, one seed and no "
    "intervals. They are context for each other, not rows of one table."
)


def page_html(report: Report) -> str:
    """Render the page; the figures of the report's folder and their CSV files go into it."""
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,  # prompts and failure reasons come from outside and must not become HTML
        undefined=StrictUndefined,  # a misspelt name would be an empty section
        keep_trailing_newline=True,
    )
    return jinja.get_template("index.html.j2").render(report=report, page=_values(report))


def _values(report: Report) -> dict[str, object]:
    sampled, sample_note = _samples(report.samples)
    return {
        "version": __version__,
        "summaries": [_summary(table, report.matched) for table in report.tables],
        "results": [_results(table) for table in report.tables],
        "choices": list(choice_lines(report.choices)),
        "choices_table": _choices(report.choices),
        "choices_note": NOTE,
        "matched": _matched(report.matched),
        "matched_note": frames.matched_note(report.matched),
        "thresholds": _thresholds(report.crossings),
        "threshold_note": frames.THRESHOLD_NOTE,
        "gaming": _gaming(report),
        "figures": figures(report.figures.entries, report.folder),
        "samples": sampled,
        "samples_note": sample_note,
        "measured": _published("Measured here", report.measured),
        "published": _published(f"{AS_PUBLISHED.capitalize()}: {SOURCE}", report.published),
        "published_note": PUBLISHED_NOTE,
        "trace": _trace(report.cells),
        "configs": configurations(report.cells),
        "protocols": protocols(report.cells, report.tables),
        "environment": environment(report.cells),
    }


def _summary(table: TaskTable, matched: Sequence[MatchedTable]) -> dict[str, object]:
    """A task in words: at the last steps, and at the least cost at which methods compare."""
    groups = [{"title": "At the last step:", "findings": table.findings()}]
    # The least cost: further up fewer methods ever got there.
    own = (one for one in matched if one.table.task == table.task)
    first = next((one for one in own if one.table.findings()), None)
    if first is not None:
        title = f"At equal cost, {frames.amount_text(first)}:"
        groups.append({"title": title, "findings": first.table.findings()})
    groups = [group for group in groups if group["findings"]]
    return {"title": f"Task: {table.task}", "groups": groups}


def _results(table: TaskTable) -> dict[str, object]:
    caption = f"Task {table.task}: every method at its last step"
    return {
        "title": f"Task: {table.task}",
        "table": methods_table(table, caption),
        "others": others_table(table, f"Task {table.task}: the metrics that do not decide"),
        "notes": table.notes(),
    }


def _matched(matched: Sequence[MatchedTable]) -> list[dict[str, object]]:
    levels: dict[str, list[dict[str, object]]] = {}
    for one in matched:
        caption = f"Task {one.table.task}, {frames.level_text(one)}"
        notes = [*frames.place_notes(one), *one.table.about_family()[:1]]
        level = {"table": methods_table(one.table, caption), "notes": notes}
        levels.setdefault(one.table.task, []).append({**level, "findings": one.table.findings()})
    return [{"title": f"Task: {task}", "levels": own} for task, own in levels.items()]


def _thresholds(crossings: Sequence[Crossing]) -> list[DataTable]:
    tables = []
    for task in dict.fromkeys(one.task for one in crossings):
        own = [one for one in crossings if one.task == task]
        caption = f"Task {task}: {frames.threshold_title(own[0])}"
        tables.append(data_table(caption, frames.threshold_texts(own), texts=1))
    return tables


def _choices(choices: Sequence[Choice]) -> DataTable:
    return data_table("Every trial", tuning_texts(choices), texts=2)


def _gaming(report: Report) -> list[dict[str, object]]:
    """Tables of scores against what they stand for, and of diversity, by task."""
    parts: list[dict[str, object]] = []
    for table in report.tables:
        tables: list[dict[str, object]] = []
        for one in (one for one in report.gaming if one.task == table.task):
            caption = f"Task {one.task}: {gaming.gaming_title(one)}"
            texts = data_table(caption, gaming.gaming_texts(one, table.titles), texts=1)
            findings = gaming.gaming_findings(one, table.titles)
            tables.append({"table": texts, "findings": findings, "note": gaming.gaming_note(one)})
        for own in (own for own in report.diversity if own.task == table.task):
            caption = f"Task {own.task}: diversity within a prompt"
            texts = data_table(caption, gaming.diversity_texts(own), texts=2)
            tables.append({"table": texts, "findings": [], "note": gaming.diversity_note(own)})
        if tables:
            parts.append({"title": f"Task: {table.task}", "tables": tables})
    return parts


def _published(caption: str, frame: pd.DataFrame | None) -> DataTable | None:
    return None if frame is None else data_table(caption, frame, texts=1)


def _trace(cells: Sequence[Cell]) -> DataTable:
    heads = {
        "cell_id": "Cell", "mlflow_run_id": "MLflow run", "command": "Command",
        "git_commit": "Commit", "soarbench": "soarbench", "created_at": "Begun at",
    }  # fmt: skip
    frame = frames.trace_numbers(cells)[list(heads)].rename(columns=heads)
    caption = "Cells, their MLflow runs, commands and commits"
    return data_table(caption, frame, texts=len(heads))


def _samples(samples: Sequence[Samples]) -> tuple[list[dict[str, object]], str]:
    """Galleries of the tasks that have images; only the last step where all would be too much."""
    size = sum(len(one.jpeg) for part in samples for one in part.samples.values())
    # The page is one file that is mailed around and opened from disk.
    is_whole = size <= MOST_SAMPLE_BYTES
    note = "" if is_whole else "The page holds the last step alone, to stay small."
    return [_gallery(part, is_whole=is_whole) for part in samples if part.samples], note


def _gallery(part: Samples, *, is_whole: bool) -> dict[str, object]:
    steps = part.steps if is_whole else part.steps[-1:]
    ordered = [one for _, one in sorted(part.samples.items())]
    shown = [one for one in ordered if one.step in steps or one.method == BASE]
    present = {one.method for one in shown}
    titles = {name: method_title(name, part.titles) for name in part.methods if name in present}
    images: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for one in shown:
        image = _image(one, part.prompts[one.prompt_id], titles[one.method])
        images.setdefault((one.method, one.prompt_id), []).append(image)
    rows = []
    for key, text in part.prompts.items():
        own = [{"method": name, "images": images.get((name, key), [])} for name in titles]
        rows.append({"prompt": text, "cells": own})
    # All of them are of the lowest seed, as the sheets are.
    seeds = sorted({one.seed for one in shown if one.method != BASE})
    seed = f", training seed {seeds[0]}" if seeds else ""
    return {
        "title": f"Task: {part.task}{seed}",
        "methods": [{"name": name, "title": title} for name, title in titles.items()],
        "steps": steps,
        "steps_title": "Step of the last stage" if any(map(first_stage, titles)) else "Step",
        "rows": rows,
    }


def _image(sample: Sample, prompt: str, method: str) -> Mapping[str, object]:
    title = f"{method}, {step_title(sample.method, sample.step)}"
    return {
        "source": f"data:image/jpeg;base64,{base64.b64encode(sample.jpeg).decode()}",
        "alt": f"{title}: {prompt}",
        "step": sample.step,
        # The base has one step, and stays beside whichever is chosen.
        "always": "yes" if sample.method == BASE else "no",
    }
