"""Tables for papers: LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from soarbench.report.metrics import BASE, method_title, metric_of
from soarbench.report.reference import AS_PUBLISHED, SOURCE, PublishedTable
from soarbench.report.render import NOTHING, difference_text, seeds_text, value_text
from soarbench.report.tables import BUDGET_COLUMNS, MethodRow, TaskTable
from soarbench.stats import Verdict

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
}  # fmt: skip
_MARKS = {Verdict.BETTER: r"$\uparrow$", Verdict.WORSE: r"$\downarrow$"}
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
    heads = ["Method", "Seeds"]
    for name in table.metrics:
        heads += [f"{metric_of(name).title} [95 %]", f"vs {method_title(table.baseline)}"]
    heads += BUDGET_COLUMNS.values()
    rows = [_texts(table, row) for row in table.rows]
    caption = (
        f"{grid}, task {table.task}. Brackets are 95 % intervals; arrows mark what is better or "
        f"worse than {method_title(table.baseline)} after Holm's correction.{partial}"
    )
    return _float(caption, f"{grid}-{table.task}", _tabular(heads, [(None, rows)]))


def _texts(table: TaskTable, row: MethodRow) -> list[str]:
    texts = [method_title(row.method), seeds_text(row)]
    for name in table.metrics:
        comparison = row.comparisons.get(name)
        difference = NOTHING if comparison is None else difference_text(comparison, name)
        mark = "" if comparison is None else _MARKS.get(comparison.verdict, "")
        texts += [value_text(row.estimates.get(name), name), difference + mark]
    budget = [row.budget.get(name) if row.method != BASE else None for name in BUDGET_COLUMNS]
    return texts + [NOTHING if spent is None else f"{spent:,.0f}" for spent in budget]


def _layout_float(
    grid: str, measured: PublishedTable, published: PublishedTable, partial: str
) -> str:
    caption = f"{grid} in the layout of the published table.{partial}"
    blocks = [
        ("Measured", measured.rows),
        (f"{AS_PUBLISHED.capitalize()}: {SOURCE}", published.rows),
    ]
    return _float(caption, f"{grid}-published", _tabular(published.columns, blocks))


def _tabular(
    heads: Sequence[str], blocks: Sequence[tuple[str | None, Sequence[Sequence[str]]]]
) -> str:
    """A tabular; every block of rows below a rule and, where it has one, a heading."""
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", _line(heads)]
    for title, rows in blocks:
        lines.append(r"\midrule")
        if title is not None:
            lines.append(rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{escaped(title)}}}}} \\")
        lines += [_line([text or NOTHING for text in row]) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _line(texts: Sequence[str]) -> str:
    return " & ".join(_cell(text) for text in texts) + r" \\"


def _cell(text: str) -> str:
    """A cell; the mark of a verdict is LaTeX already."""
    for mark in _MARKS.values():
        if text.endswith(mark):
            return escaped(text.removesuffix(mark)) + mark
    return escaped(text)


def _float(caption: str, label: str, tabular: str) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            rf"\label{{tab:{label}}}",
            r"\resizebox{\linewidth}{!}{%",
            tabular + "}",
            r"\end{table}",
            "",
        ]
    )
