"""Measured numbers under the columns of the published table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from soarbench.report.numbers.names import BASE, method_title
from soarbench.report.numbers.reference import AS_PUBLISHED, PublishedTable
from soarbench.report.numbers.tables import MethodRow, TaskTable
from soarbench.report.text.tables import NOTHING, csv_text, value_text
from soarbench.store.cells import Cell

MEASURED = "measured"
SOURCE_HEAD = "Source"


def measured_layout(
    published: PublishedTable, tables: Sequence[TaskTable], cells: Sequence[Cell]
) -> PublishedTable:
    """Measured rows with the published columns, in their order.

    Args:
        published: Whose columns.
        tables: Whose numbers; a metric that was not measured is a dash.
        cells: Whose configurations name the model and the resolution.
    """
    models = {cell.method: _model(cell) for cell in cells}
    methods = dict.fromkeys(row.method for table in tables for row in table.rows)
    rows = []
    for method in methods:
        facts = models.get(method, {})
        texts = {"Method": method_title(method), "Model": _model_title(facts, method)}
        texts |= {"Resolution": str(facts.get("resolution", "")), "Steps": "0"}
        for table in tables:
            for row in table.rows:
                if row.method == method:
                    texts |= _numbers(table, row, is_only=len(tables) == 1)
        rows.append(tuple(texts.get(head) or NOTHING for head in published.columns))
    return PublishedTable(columns=published.columns, rows=tuple(rows))


def _numbers(table: TaskTable, row: MethodRow, *, is_only: bool) -> dict[str, str]:
    """A row's texts by head; a metric of one task among several names its task."""
    texts = {}
    if "optimizer_steps" in row.budget:
        texts["Steps"] = f"{row.budget['optimizer_steps']:.0f}"
    for name in table.metrics:
        title = table.facts[name].title
        head = title if is_only else f"{title} (task {table.task})"
        texts[head] = value_text(row.estimates.get(name), table.facts[name])
    return texts


def _model(cell: Cell) -> Mapping[str, object]:
    model = cell.config.get("model")
    return model if isinstance(model, dict) else {}


def _model_title(facts: Mapping[str, object], method: str) -> str:
    name = str(facts.get("name", "")) or "model"
    return name if method == BASE else f"{name} + {method_title(method)}"


def layout_csv(measured: PublishedTable, published: PublishedTable) -> str:
    """Both, every row labelled with its source."""
    heads = (SOURCE_HEAD, *published.columns)
    lines: list[dict[str, object]] = [
        dict(zip(heads, (source, *row), strict=True))
        for source, part in ((MEASURED, measured), (AS_PUBLISHED, published))
        for row in part.rows
    ]
    return csv_text(heads, lines)
