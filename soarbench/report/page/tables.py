"""Tables of the page: texts for people, numbers to sort by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soarbench.report.numbers.estimates import Comparison
from soarbench.report.numbers.names import method_title
from soarbench.report.numbers.tables import BUDGET_COLUMNS, MethodRow, TaskTable
from soarbench.report.numbers.thresholds import Crossing
from soarbench.report.numbers.trace import TRACE_COLUMNS, trace_lines
from soarbench.report.text.budgets import THRESHOLD_HEADS, threshold_rows, threshold_title
from soarbench.report.text.tables import NOTHING, difference_text, seeds_text, value_text
from soarbench.stats import Verdict
from soarbench.store.cells import Cell
from soarbench.store.facts import MetricFacts

_MARKS = {Verdict.BETTER: "better", Verdict.WORSE: "worse", Verdict.NOT_DISTINGUISHABLE: "open"}


@dataclass(frozen=True)
class DataCell:
    """One cell: its text, the number that it is sorted by, and the mark of a verdict."""

    text: str
    sort: float | None = None
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """A table of the page.

    Attributes:
        caption: Says what it holds.
        heads: Of the columns.
        rows: Cells, the first of each row being its head.
        texts: How many columns, from the left, are texts; the others are numbers.
        words: Further columns that are texts.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[DataCell, ...], ...]
    texts: int
    words: tuple[int, ...] = ()


def plain_table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int
) -> DataTable:
    """A table of texts; numbers are recognised when it is sorted."""
    cells = [tuple(DataCell(text or NOTHING, _leading(text)) for text in row) for row in rows]
    return DataTable(caption=caption, heads=tuple(heads), rows=tuple(cells), texts=texts)


def _leading(text: str) -> float | None:
    """The number that a text such as ``6.85 [6.74, 6.96]`` begins with."""
    try:
        return float(text.partition(" ")[0].replace(",", ""))
    except ValueError:
        return None


def methods_table(table: TaskTable, rows: Sequence[MethodRow], caption: str) -> DataTable:
    """Methods as rows: the deciding metric with its difference and verdict, then the costs."""
    name = table.final_metric
    title = table.facts[name].title if name else ""
    versus = f"vs {method_title(table.baseline)} [95 %]"
    heads = ("Method", f"{title} [95 %]", versus, "Verdict", "Seeds")
    cells = [
        (
            DataCell(method_title(row.method)),
            *(_metric_cells(row, table.facts[name]) if name else [DataCell(NOTHING)] * 3),
            DataCell(seeds_text(row)),
            *(_budget_cell(row.budget.get(counter)) for counter in BUDGET_COLUMNS),
        )
        for row in rows
    ]
    return DataTable(
        caption=caption,
        heads=(*heads, *BUDGET_COLUMNS.values()),
        rows=tuple(cells),
        texts=1,
        words=(heads.index("Verdict"),),
    )


def others_table(table: TaskTable, caption: str) -> DataTable | None:
    """A row a metric and method, for the metrics that do not decide; None without any."""
    versus = f"vs {method_title(table.baseline)} [95 %]"
    heads = ("Method", "Metric", "Value [95 %]", versus, "Verdict")
    rows = [
        (
            DataCell(method_title(row.method)),
            DataCell(table.facts[name].title),
            *_metric_cells(row, table.facts[name]),
        )
        for name in table.metrics
        if name != table.final_metric
        for row in table.rows
    ]
    if not rows:
        return None
    words = (heads.index("Verdict"),)
    return DataTable(caption=caption, heads=heads, rows=tuple(rows), texts=2, words=words)


def _metric_cells(row: MethodRow, facts: MetricFacts) -> tuple[DataCell, DataCell, DataCell]:
    estimate, comparison = row.estimates.get(facts.name), row.comparisons.get(facts.name)
    interval = None if estimate is None else estimate.interval
    value = DataCell(value_text(estimate, facts), None if interval is None else interval.estimate)
    return value, *_comparison_cells(comparison)


def _comparison_cells(comparison: Comparison | None) -> tuple[DataCell, DataCell]:
    if comparison is None:
        return DataCell(NOTHING), DataCell(NOTHING)
    difference = DataCell(difference_text(comparison), comparison.difference.estimate)
    return difference, DataCell(str(comparison.verdict), None, _MARKS[comparison.verdict])


def _budget_cell(spent: float | None) -> DataCell:
    return DataCell(NOTHING) if spent is None else DataCell(f"{spent:,.0f}", spent)


def threshold_table(crossings: Sequence[Crossing]) -> DataTable:
    """What each method needs to reach one task's threshold."""
    caption = f"Task {crossings[0].task}: {threshold_title(crossings[0])}"
    return plain_table(caption, THRESHOLD_HEADS, threshold_rows(crossings), texts=1)


def trace_table(cells: Sequence[Cell]) -> DataTable:
    """Every cell with what made it."""
    heads = {
        "cell_id": "Cell", "mlflow_run_id": "MLflow run", "command": "Command",
        "git_commit": "Commit", "soarbench": "soarbench", "created_at": "Begun at",
    }  # fmt: skip
    assert set(heads) <= set(TRACE_COLUMNS)
    rows = [[str(line[name]) for name in heads] for line in trace_lines(cells)]
    return DataTable(
        caption="Cells, their MLflow runs, commands and commits",
        heads=tuple(heads.values()),
        rows=tuple(tuple(DataCell(text) for text in row) for row in rows),
        texts=len(heads),
    )
