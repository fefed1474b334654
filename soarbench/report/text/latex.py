"""Tables for papers: LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from soarbench.report.numbers.names import BASE, method_title
from soarbench.report.numbers.reference import AS_PUBLISHED, SOURCE, PublishedTable
from soarbench.report.numbers.tables import BUDGET_COLUMNS, MethodRow, TaskTable
from soarbench.report.text.tables import NOTHING, difference_text, seeds_text, value_text
from soarbench.stats import Verdict

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
}  # fmt: skip
_MARKS = {Verdict.BETTER: r"$\uparrow$", Verdict.WORSE: r"$\downarrow$"}
#: A hyphen that is a sign.
_MINUS = re.compile(r"(?<!\w)-(?=\d)")
_HEAD = "% Needs \\usepackage{booktabs,graphicx}. Made by soarbench; numbers as in table.csv.\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def latex(
    grid: str,
    tables: Sequence[TaskTable],
    measured: PublishedTable | None,
    published: PublishedTable | None,
    gaps: Sequence[str],
) -> str:
    """All tables of a report, a float each.

    Args:
        grid: Name of the grid.
        tables: At the last steps.
        measured: Measured rows in the published layout, if there is one.
        published: Published rows, below the measured ones under a heading of their own.
        gaps: What is missing; the caption says that something is.
    """
    partial = " Partial: some measurements are missing." if gaps else ""
    parts = [_task_float(grid, table, partial) for table in tables]
    if measured is not None and published is not None:
        parts.append(_layout_float(grid, measured, published, partial))
    return _HEAD + "\n".join(parts)


def _task_float(grid: str, table: TaskTable, partial: str) -> str:
    heads = ["Method", "Seeds", *(f"{table.facts[name].title} [95 %]" for name in table.metrics)]
    heads += BUDGET_COLUMNS.values()
    rows = [line for row in table.rows for line in _lines_of(table, row)]
    baseline = method_title(table.baseline)
    caption = (
        f"{grid}, task {table.task}. Brackets are 95 % intervals. Below a value is the difference "
        f"to {baseline}, paired; arrows mark what is better or worse after Holm's correction."
        f"{partial}"
    )
    return _float(caption, f"{grid}-{table.task}", _tabular(heads, [(None, rows)]))


def _lines_of(table: TaskTable, row: MethodRow) -> list[list[str]]:
    """A method's values and cost and, below them, its differences, where it has some."""
    values = [value_text(row.estimates.get(name), table.facts[name]) for name in table.metrics]
    budget = [row.budget.get(name) if row.method != BASE else None for name in BUDGET_COLUMNS]
    spent = [NOTHING if value is None else f"{value:,.0f}" for value in budget]
    lines = [[method_title(row.method), seeds_text(row), *values, *spent]]
    if row.comparisons:
        differences = [_difference(row, name) for name in table.metrics]
        lines.append(["", "", *differences, *("" for _ in spent)])
    return lines


def _difference(row: MethodRow, name: str) -> str:
    comparison = row.comparisons.get(name)
    if comparison is None:
        return NOTHING
    return difference_text(comparison) + _MARKS.get(comparison.verdict, "")


def _layout_float(
    grid: str, measured: PublishedTable, published: PublishedTable, partial: str
) -> str:
    caption = f"{grid} in the layout of the published table.{partial}"
    blocks = [
        ("Measured", _filled(measured.rows)),
        (f"{AS_PUBLISHED.capitalize()}: {SOURCE}", _filled(published.rows)),
    ]
    return _float(caption, f"{grid}-published", _tabular(published.columns, blocks))


def _filled(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[text or NOTHING for text in row] for row in rows]


def _tabular(
    heads: Sequence[str], blocks: Sequence[tuple[str | None, Sequence[Sequence[str]]]]
) -> str:
    """A tabular; every block of rows below a rule and, where it has one, a heading."""
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", _line(heads)]
    for title, rows in blocks:
        lines.append(r"\midrule")
        if title is not None:
            lines.append(rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{escaped(title)}}}}} \\")
        lines += [_line(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _line(texts: Sequence[str]) -> str:
    return " & ".join(_cell(text) for text in texts) + r" \\"


def _cell(text: str) -> str:
    """A cell, with minus signs; the mark of a verdict is LaTeX already."""
    mark = next((mark for mark in _MARKS.values() if text.endswith(mark)), "")
    return _MINUS.sub("$-$", escaped(text.removesuffix(mark))) + mark


def _float(caption: str, label: str, tabular: str) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            rf"\label{{tab:{label}}}",
            r"\smallskip",
            r"\resizebox{\linewidth}{!}{%",
            tabular + "}",
            r"\end{table}",
            "",
        ]
    )
