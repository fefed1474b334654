"""The report as one self-contained HTML page: no network, styles, script and images inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from soarbench import __version__
from soarbench.config.stages import first_stage
from soarbench.report.numbers.budgets import MatchedTable, trained_rows
from soarbench.report.numbers.names import BASE, method_title, step_title
from soarbench.report.numbers.reference import AS_PUBLISHED, SOURCE, PublishedTable
from soarbench.report.numbers.samples import Sample, Samples
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.numbers.thresholds import Crossing
from soarbench.report.page.figures import figures
from soarbench.report.page.sources import configurations, environment, protocols
from soarbench.report.page.tables import (
    DataTable,
    methods_table,
    others_table,
    plain_table,
    threshold_table,
    trace_table,
)
from soarbench.report.text.budgets import (
    COUNTER_TITLES,
    early_note,
    level_text,
    matched_findings,
    matched_note,
    threshold_note,
)
from soarbench.store.cells import Cell

TEMPLATES = Path(__file__).with_name("templates")
#: Of all samples of a page, before base64 makes them a third larger.
MOST_SAMPLE_BYTES = 6_000_000
PUBLISHED_NOTE = (
    f"The first table holds numbers measured here, under the published table's columns; the second "
    f"holds numbers {AS_PUBLISHED} ({SOURCE}): another model, other prompts, one seed and no "
    "intervals. They are context for each other, not rows of one table."
)


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """What a page shows; see ``build.Report`` for the fields.

    Attributes:
        grid: Name of the grid.
        gaps: What is missing, a line each.
        cells: Finished ones.
        tables: At the last steps.
        matched: At equal cost.
        crossings: What a value costs.
        samples: Stored images, by task.
        measured: Measured rows under the published columns.
        published: Published rows.
    """

    grid: str
    gaps: Sequence[str]
    cells: Sequence[Cell]
    tables: Sequence[TaskTable]
    matched: Sequence[MatchedTable]
    crossings: Sequence[Crossing]
    samples: Sequence[Samples]
    measured: PublishedTable | None
    published: PublishedTable | None


def page_html(content: PageContent, folder: Path) -> str:
    """Render the page.

    Args:
        content: What it shows.
        folder: The report's; its figures and their CSV files go into the page.
    """
    loader = FileSystemLoader(TEMPLATES)
    jinja = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return jinja.get_template("index.html.j2").render(page=_values(content, folder))


def _values(content: PageContent, folder: Path) -> dict[str, object]:
    sampled, sample_note = _samples(content.samples)
    return {
        "grid": content.grid,
        "version": __version__,
        "gaps": content.gaps,
        "summaries": [_summary(table, content.matched) for table in content.tables],
        "results": [_results(table) for table in content.tables],
        "matched": _matched(content.matched),
        "matched_note": matched_note(content.matched),
        "thresholds": _thresholds(content.crossings),
        "threshold_note": threshold_note(content.crossings),
        "figures": figures(folder),
        "samples": sampled,
        "samples_note": sample_note,
        "measured": _published("Measured here", content.measured),
        "published": _published(f"{AS_PUBLISHED.capitalize()}: {SOURCE}", content.published),
        "published_note": PUBLISHED_NOTE,
        "trace": trace_table(content.cells),
        "configs": configurations(content.cells),
        "protocols": protocols(content.cells, content.tables),
        "environment": environment(content.cells),
    }


def _summary(table: TaskTable, matched: Sequence[MatchedTable]) -> dict[str, object]:
    """A task in words: at the last steps, and at the least cost at which methods compare."""
    groups = [{"title": "At the last step:", "findings": table.findings()}]
    own = (one for one in matched if one.table.task == table.task)
    first = next((one for one in own if matched_findings(one)), None)
    if first is not None:
        amount = f"{first.level:,.0f} {COUNTER_TITLES[first.counter]}"
        groups.append({"title": f"At equal cost, {amount}:", "findings": matched_findings(first)})
    return {
        "title": f"Task: {table.task}",
        "groups": [group for group in groups if group["findings"]],
    }


def _results(table: TaskTable) -> dict[str, object]:
    caption = f"Task {table.task}: every method at its last step"
    return {
        "title": f"Task: {table.task}",
        "table": methods_table(table, table.rows, caption),
        "others": others_table(table, f"Task {table.task}: the metrics that do not decide"),
        "notes": table.notes(),
    }


def _matched(matched: Sequence[MatchedTable]) -> list[dict[str, object]]:
    """The tables of each task together."""
    tasks = dict.fromkeys(one.table.task for one in matched)
    return [
        {
            "title": f"Task: {task}",
            "levels": [_level(one) for one in matched if one.table.task == task],
        }
        for task in tasks
    ]


def _level(one: MatchedTable) -> dict[str, object]:
    caption = f"Task {one.table.task}, {level_text(one)}"
    table = methods_table(one.table, trained_rows(one.table), caption)
    return {"table": table, "note": early_note(one), "findings": matched_findings(one)}


def _thresholds(crossings: Sequence[Crossing]) -> list[DataTable]:
    tasks = dict.fromkeys(one.task for one in crossings)
    return [threshold_table([one for one in crossings if one.task == task]) for task in tasks]


def _published(caption: str, table: PublishedTable | None) -> DataTable | None:
    return None if table is None else plain_table(caption, table.columns, table.rows, texts=1)


def _samples(samples: Sequence[Samples]) -> tuple[list[dict[str, object]], str]:
    """Galleries of the tasks that have images; only the last step where all would be too much."""
    size = sum(len(one.jpeg) for part in samples for one in part.samples.values())
    is_whole = size <= MOST_SAMPLE_BYTES
    shown = [part if is_whole else _last_step(part) for part in samples]
    note = "" if is_whole else "The page holds the last step alone, to stay small."
    return [_gallery(part) for part in shown if part.samples], note


def _last_step(samples: Samples) -> Samples:
    last = samples.steps[-1:]
    kept = {k: v for k, v in samples.samples.items() if v.method == BASE or v.step in last}
    return Samples(task=samples.task, prompts=samples.prompts, samples=kept)


def _gallery(samples: Samples) -> dict[str, object]:
    seeds = sorted({one.seed for one in samples.samples.values() if one.method != BASE})
    seed = f", training seed {seeds[0]}" if seeds else ""
    methods = [{"name": name, "title": method_title(name)} for name in samples.methods]
    is_staged = any(map(first_stage, samples.methods))
    return {
        "title": f"Task: {samples.task}{seed}",
        "methods": methods,
        "steps": samples.steps,
        "steps_title": "Step of the last stage" if is_staged else "Step",
        "rows": [
            {
                "prompt": text,
                "cells": [
                    {"method": method, "images": _images(samples, method, prompt_id)}
                    for method in samples.methods
                ],
            }
            for prompt_id, text in samples.prompts.items()
        ],
    }


def _images(samples: Samples, method: str, prompt_id: str) -> list[Mapping[str, object]]:
    found = [
        one
        for (of, _, prompt), one in sorted(samples.samples.items())
        if (of, prompt) == (method, prompt_id)
    ]
    return [_image(one, samples.prompts[prompt_id]) for one in found]


def _image(sample: Sample, prompt: str) -> Mapping[str, object]:
    title = f"{method_title(sample.method)}, {step_title(sample.method, sample.step)}"
    return {
        "source": f"data:image/jpeg;base64,{base64.b64encode(sample.jpeg).decode()}",
        "alt": f"{title}: {prompt}",
        "step": sample.step,
        "always": "yes" if sample.method == BASE else "no",
    }
