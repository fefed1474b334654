"""A report for the console: tables, findings, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.report import Report
from soarbench.report.text.frames import NOTHING, cost_texts, score_texts
from soarbench.report.text.tuning import choice_lines
from soarbench.stats import Verdict

_STYLES = {str(one): "green" if one.direction > 0 else "red" for one in Verdict if one.is_decided}


def report_parts(report: Report) -> Iterator[RenderableType]:
    """Tables, findings, notes, what is missing, and where the files are."""
    for table in report.tables:
        yield ScoreTable(table)
        yield budget_table(table)
        yield from (Padding(Text(text, style="bold"), (0, 1)) for text in table.findings())
        yield from (Padding(Text(text, style="dim"), (0, 1)) for text in table.notes())
        yield ""
    yield from (Padding(Text(text, style="bold"), (0, 1)) for text in choice_lines(report.choices))
    if report.gaps:
        yield Text("Partial report. Missing:", style="bold yellow")
        yield from (Padding(Text(gap, style="yellow"), (0, 2)) for gap in report.gaps)
    yield from (Text(line, style="yellow") for line in report.cautions)
    yield from (Padding(Text(note, style="dim"), (0, 1)) for note in report.notes)
    yield Text(f"Report: {report.folder / 'index.html'}")


@dataclass(frozen=True)
class ScoreTable:
    """Values, differences and verdicts, with intervals on lines of their own where it is narrow."""

    table: TaskTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = _score_table(self.table, " ")
        needed = console.measure(wide, options=options.update(width=1000)).maximum
        # Else an interval would be broken in its middle.
        yield wide if needed <= options.max_width else _score_table(self.table, "\n")


def _score_table(table: TaskTable, between: str) -> Table:
    """The table, with ``between`` between a number and its interval."""

    def parted(text: str) -> Text:
        return Text(text.replace(" [", f"{between}[", 1))

    rendered = Table(
        title=f"Task: {table.task}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    rendered.add_column("Method", overflow="fold")
    for head in ("Value", f"vs {table.title(table.baseline)}"):
        rendered.add_column(parted(f"{head} [95 %]"), justify="right", no_wrap=True)
    rendered.add_column("Verdict", overflow="fold")
    # A section a metric and no column: a console is too narrow for seven metrics.
    for metric, rows in score_texts(table).groupby("metric", sort=False):
        rendered.add_row(Text(rows["title"].iloc[0], style="bold"))
        for row in rows.itertuples():
            # A baseline has no difference to itself; a dash would say that one is missing.
            nothing = "" if row.method == table.baseline else NOTHING
            # Colour is for the comparisons that the task is decided by.
            is_claim = metric == table.final_metric and row.method != BASE
            rendered.add_row(
                f" {row.name}", parted(row.value), parted(row.difference or nothing), row.verdict,
                style=_STYLES.get(row.verdict) if is_claim else None,
                end_section=row.method == table.rows[-1].method,
            )  # fmt: skip
    return rendered


def budget_table(table: TaskTable) -> Table:
    """What each method spent."""
    rendered = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    costs = cost_texts(table)
    for head in costs:
        rendered.add_column(head, justify="left" if head == "Method" else "right")
    for row in costs.to_numpy().tolist():
        rendered.add_row(*row)
    return rendered
