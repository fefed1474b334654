"""The report as one self-contained HTML page: no network, styles, script and images inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from soarbench import __version__
from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.reference import AS_PUBLISHED, SOURCE
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.numbers.thresholds import Crossing
from soarbench.report.numbers.tuning import Choice
from soarbench.report.page.facts import facts
from soarbench.report.page.figures import figures
from soarbench.report.page.plot import task_plot
from soarbench.report.page.samples import samples
from soarbench.report.page.sources import configurations, environment, protocols, trace
from soarbench.report.page.tables import DataTable, data_table, methods_table, others_table
from soarbench.report.report import FigureEntry, Report
from soarbench.report.text import frames, gaming
from soarbench.report.text.exposure import (
    ROBUSTNESS_NOTE,
    exposure_note,
    exposure_texts,
    robustness_texts,
)
from soarbench.report.text.tuning import NOTE, choice_lines, tuning_texts

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
    plots = [task_plot(table.task, report.forest) for table in report.tables]
    baselines = {table.task: table.baseline for table in report.tables}
    sampled, sample_note = samples(report.samples, baselines)
    return {
        "version": __version__,
        "facts": facts(report),
        "plots": plots,
        "description": " ".join(f"{plot.task}: {plot.headline}" for plot in plots),
        "results": [_results(table) for table in report.tables],
        "choices": list(choice_lines(report.choices)),
        "choices_table": _choices(report.choices),
        "choices_note": NOTE,
        "matched": _matched(report.matched),
        "matched_note": frames.matched_note(report.matched),
        "thresholds": _thresholds(report.crossings),
        "threshold_note": frames.THRESHOLD_NOTE,
        "gaming": _gaming(report),
        "figures": figures(_drawings(report), report.folder),
        "samples": sampled,
        "samples_note": sample_note,
        "measured": _published("Measured here", report.measured),
        "published": _published(f"{AS_PUBLISHED.capitalize()}: {SOURCE}", report.published),
        "published_note": PUBLISHED_NOTE,
        "trace": trace(report.cells),
        "configs": configurations(report.cells),
        "protocols": protocols(report.cells, report.tables),
        "environment": environment(report.cells),
    }


def _drawings(report: Report) -> list[FigureEntry]:
    """All that were drawn but the sheets of tasks whose samples the page shows one by one."""
    sheets = {f"samples_{part.task}" for part in report.samples if part.samples}
    return [one for one in report.figures.entries if one.files and one.name not in sheets]


def _results(table: TaskTable) -> dict[str, object]:
    caption = f"Task {table.task}: every method at its last step"
    return {
        "title": f"Task: {table.task}",
        "table": methods_table(table, caption),
        "others": others_table(table, f"Task {table.task}: the metrics that do not decide"),
        "findings": table.findings(),
        "notes": table.notes(),
    }


def _matched(matched: Sequence[MatchedTable]) -> list[dict[str, object]]:
    levels: dict[str, list[dict[str, object]]] = {}
    for one in matched:
        caption = f"Task {one.table.task}, {frames.level_text(one)}"
        notes = [*frames.place_notes(one), *one.table.about_family()[:1]]
        level = {
            "table": methods_table(one.table, caption),
            "others": others_table(one.table, f"{caption}; the metrics that do not decide"),
            "notes": notes,
        }
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
        tables += _off_path(report, table)
        if tables:
            parts.append({"title": f"Task: {table.task}", "tables": tables})
    return parts


def _off_path(report: Report, table: TaskTable) -> Iterator[dict[str, object]]:
    """Tables about exposure bias and other samplers in a task."""
    baseline = table.title(table.baseline)
    if own := [point for point in report.exposure if point.task == table.task]:
        texts = data_table(
            f"Task {table.task}: exposure bias",
            _in_one_line(exposure_texts(own, table.titles)),
            texts=1,
        )
        yield {"table": texts, "findings": [], "note": exposure_note(own, baseline)}
    if scores := [point for point in report.robustness if point.task == table.task]:
        texts = data_table(
            f"Task {table.task}: scores by sampler",
            _in_one_line(robustness_texts(scores, table.facts, table.titles)),
            texts=1,
        )
        yield {"table": texts, "findings": [], "note": ROBUSTNESS_NOTE.format(baseline=baseline)}


def _in_one_line(texts: pd.DataFrame) -> pd.DataFrame:
    return texts.map(lambda text: text.replace("<br>", "; "))


def _published(caption: str, frame: pd.DataFrame | None) -> DataTable | None:
    return None if frame is None else data_table(caption, frame, texts=1)
