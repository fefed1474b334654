"""Tables for papers: LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from soarbench.report.numbers.reference import AS_PUBLISHED, SOURCE
from soarbench.report.numbers.tables import BUDGET_COLUMNS, TaskTable
from soarbench.report.report import Report
from soarbench.report.text.frames import NOTHING, score_texts, wide
from soarbench.stats import Verdict

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip
_MARKS = {str(one): "↑" if one.direction > 0 else "↓" for one in Verdict if one.is_decided}
#: A hyphen that is a sign.
_MINUS = re.compile(r"(?<!\w)-(?=\d)")
_HEAD = "% Needs \\usepackage{booktabs,graphicx}. Made by soarbench; numbers as in table.csv.\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def latex(report: Report) -> str:
    """All tables of a report, a float each; published rows below the measured ones."""
    partial = " Partial: some measurements are missing." if report.gaps else ""
    parts = [_task_float(report.grid, table, partial) for table in report.tables]
    if report.measured is not None and report.published is not None:
        blocks = [
            ("Measured", _rows(report.measured)),
            (f"{AS_PUBLISHED.capitalize()}: {SOURCE}", _rows(report.published)),
        ]
        caption = f"{report.grid} in the layout of the published table.{partial}"
        tabular = _tabular(list(report.published), blocks)
        parts.append(_float(caption, f"{report.grid}-published", tabular))
    return _HEAD + "\n".join(parts)


def _task_float(grid: str, table: TaskTable, partial: str) -> str:
    """A method's values and cost and, below them, its differences, where it has some."""
    texts = score_texts(table)
    titles = [f"{table.facts[name].title} [95 %]" for name in table.metrics]
    differences = texts["difference"].replace("", NOTHING) + texts["verdict"].map(_MARKS).fillna("")
    values = wide(table, texts["value"], titles)
    below = wide(table, differences, titles).iloc[:, 2 : 2 + len(titles)]
    lines: list[list[str]] = []
    both = zip(values.to_numpy().tolist(), below.to_numpy().tolist(), strict=True)
    for row, (cells, more) in zip(table.rows, both, strict=True):
        lines.append(cells)
        # The baseline has no line of differences below it.
        if row.comparisons:
            lines.append(["", "", *more, *("" for _ in BUDGET_COLUMNS)])
    caption = (
        f"{grid}, task {table.task}. Brackets are 95 % intervals. Below a value is the difference "
        f"to {table.title(table.baseline)}, paired; arrows mark what is better or worse. "
        f"{' '.join(table.about_family())}{partial}"
    )
    return _float(caption, f"{grid}-{table.task}", _tabular(list(values), [(None, lines)]))


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    return [[text or NOTHING for text in row] for row in frame.to_numpy().tolist()]


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
    # A hyphen is narrower than a plus sign, and columns of numbers would not line up.
    return " & ".join(_MINUS.sub("$-$", escaped(text)) for text in texts) + r" \\"


def _float(caption: str, label: str, tabular: str) -> str:
    lines = (
        r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{label}}}", r"\smallskip",
        # Any number of metrics fits the line.
        r"\resizebox{\linewidth}{!}{%", tabular + "}", r"\end{table}", "",
    )  # fmt: skip
    return "\n".join(lines)
