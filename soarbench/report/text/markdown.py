"""The whole report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.diversity import Diversity
from soarbench.report.numbers.exposure import ExposurePoint
from soarbench.report.numbers.gaming import Gaming
from soarbench.report.numbers.reference import AS_PUBLISHED, SOURCE
from soarbench.report.numbers.robustness import RobustnessPoint
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.numbers.thresholds import Crossing
from soarbench.report.report import Report
from soarbench.report.text import frames, gaming
from soarbench.report.text.exposure import (
    ROBUSTNESS_NOTE,
    exposure_note,
    exposure_texts,
    robustness_texts,
)
from soarbench.report.text.frames import NOTHING
from soarbench.report.text.headline import headline
from soarbench.report.text.tuning import NOTE, choice_lines, tuning_texts


def markdown(report: Report) -> str:
    """The whole report as Markdown; says at the top what is missing, if anything is."""
    parts = [f"# {report.grid}"]
    if report.gaps:
        parts.append(f"**Partial report.** Missing:\n\n{_items(report.gaps)}")
    parts.append(_items(report.cautions))
    if report.choices:
        lines = _items([*choice_lines(report.choices), NOTE])
        parts += ["## Chosen", lines, markdown_table(tuning_texts(report.choices))]
    for table in report.tables:
        parts += [
            f"## Task: {table.task}",
            f"**{headline([one for one in report.forest if one.table.task == table.task])}**",
            task_markdown(table),
            _items(table.findings()),
            _items(table.notes()),
            matched_markdown([one for one in report.matched if one.table.task == table.task]),
            threshold_markdown([one for one in report.crossings if one.task == table.task]),
            *(gaming_markdown(one, table) for one in report.gaming if one.task == table.task),
            *(diversity_markdown(one) for one in report.diversity if one.task == table.task),
            exposure_markdown(report.exposure, table),
            robustness_markdown(report.robustness, table),
        ]
    if report.measured is not None:
        title = "## Measured, under the columns of the published table"
        parts += [title, markdown_table(report.measured)]
    if report.published is not None:
        parts += [
            f"## {AS_PUBLISHED.capitalize()}",
            f"{SOURCE}. Another model, other prompts, no intervals, one seed: context for the "
            "tables above, not rows of them.",
            markdown_table(report.published),
        ]
    parts.append("`trace.csv` names the cells, MLflow runs, commands and commits of every row.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _items(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def markdown_table(frame: pd.DataFrame) -> str:
    """A Markdown table; all columns but the first are numbers, to the right."""
    rules = ["---", *["---:"] * (len(frame.columns) - 1)]
    lines = [list(frame.columns), rules, *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell or NOTHING for cell in line) + " |" for line in lines)


def task_markdown(table: TaskTable) -> str:
    """Methods as rows; every metric with its difference to the baseline below it."""
    texts = frames.score_texts(table)
    titles = [f"{table.facts[name].title} [95 %]" for name in table.metrics]
    if titles:
        titles[0] += f"<br>vs {table.title(table.baseline)}: verdict"
    # Markdown tables have no second line in a cell but this.
    below = "<br>" + texts["difference"] + ": " + texts["verdict"]
    scores = texts["value"] + below.where(texts["verdict"] != "", "")
    return markdown_table(frames.wide(table, scores, titles))


def matched_markdown(matched: Sequence[MatchedTable]) -> str:
    """The tables at equal cost of one task; empty where there is none."""
    if not matched:
        return ""
    title = f"### At equal {frames.COUNTER_TITLES[matched[0].counter]}"
    parts = [title, frames.matched_note(matched)]
    for one in matched:
        parts += [f"{frames.level_text(one)}:", task_markdown(one.table)]
        notes = [*frames.place_notes(one), *one.table.about_family()[:1]]
        parts += [_items(notes), _items(one.table.findings())]
    return "\n\n".join(part for part in parts if part)


def threshold_markdown(crossings: Sequence[Crossing]) -> str:
    """What each method needs to reach one task's threshold; empty where there is none."""
    if not crossings:
        return ""
    title = frames.threshold_title(crossings[0])
    table = markdown_table(frames.threshold_texts(crossings))
    return f"### {title}\n\n{table}\n\n{frames.THRESHOLD_NOTE}"


def gaming_markdown(one: Gaming, table: TaskTable) -> str:
    """Whether a learned score's gains are real."""
    parts = [
        f"### {gaming.gaming_title(one)}",
        markdown_table(gaming.gaming_texts(one, table.titles)),
        _items(gaming.gaming_findings(one, table.titles)),
        gaming.gaming_note(one),
    ]
    return "\n\n".join(part for part in parts if part)


def diversity_markdown(one: Diversity) -> str:
    """How unlike a prompt's images are."""
    table = markdown_table(gaming.diversity_texts(one))
    return f"### Diversity within a prompt\n\n{table}\n\n{gaming.diversity_note(one)}"


def exposure_markdown(points: Sequence[ExposurePoint], table: TaskTable) -> str:
    """What was measured of exposure bias in a table's task; empty where nothing was."""
    own = [point for point in points if point.task == table.task]
    if not own:
        return ""
    texts = markdown_table(exposure_texts(own, table.titles))
    note = exposure_note(own, table.title(table.baseline))
    return f"### Exposure bias\n\n{texts}\n\n{note}"


def robustness_markdown(points: Sequence[RobustnessPoint], table: TaskTable) -> str:
    """Scores by other samplers in a table's task; empty where none was drawn with."""
    own = [point for point in points if point.task == table.task]
    if not own:
        return ""
    texts = markdown_table(robustness_texts(own, table.facts, table.titles))
    note = ROBUSTNESS_NOTE.format(baseline=table.title(table.baseline))
    return f"### Scores by sampler\n\n{texts}\n\n{note}"
