"""The whole report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.reference import AS_PUBLISHED, SOURCE, PublishedTable
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.numbers.thresholds import Crossing
from soarbench.report.text.budgets import matched_markdown, threshold_markdown
from soarbench.report.text.tables import markdown_table, task_markdown


def markdown(
    grid: str,
    tables: Sequence[TaskTable],
    published: PublishedTable | None,
    gaps: Sequence[str],
    *,
    matched: Sequence[MatchedTable] = (),
    crossings: Sequence[Crossing] = (),
    measured: PublishedTable | None = None,
) -> str:
    """The whole report as Markdown; says at the top what is missing, if anything is.

    Args:
        grid: Name of the grid.
        tables: At the last steps.
        published: Rows of the paper; a section of their own.
        gaps: What is missing, a line each.
        matched: At equal cost.
        crossings: What a value costs.
        measured: Measured rows under the published columns.
    """
    parts = [f"# {grid}"]
    if gaps:
        missing = "\n".join(f"- {gap}" for gap in gaps)
        parts.append(f"**Partial report.** Missing:\n\n{missing}")
    for table in tables:
        parts += [f"## Task: {table.task}", task_markdown(table)]
        findings = "\n".join(f"- {text}" for text in table.findings())
        notes = "\n".join(f"- {text}" for text in table.notes())
        equal = matched_markdown([one for one in matched if one.table.task == table.task])
        needed = threshold_markdown([one for one in crossings if one.task == table.task])
        parts += [text for text in (findings, notes, equal, needed) if text]
    if measured is not None:
        parts += [
            "## Measured, under the columns of the published table",
            markdown_table(measured.columns, measured.rows, texts=1),
        ]
    if published is not None:
        parts += [
            f"## {AS_PUBLISHED.capitalize()}",
            f"{SOURCE}. Another model, other prompts, no intervals, one seed: context for the "
            "tables above, not rows of them.",
            markdown_table(published.columns, published.rows, texts=1),
        ]
    parts.append("`trace.csv` names the cells, MLflow runs, commands and commits of every row.")
    return "\n\n".join(parts) + "\n"
