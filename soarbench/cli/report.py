"""``report``: a grid's tables, figures and page, from what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group

from soarbench.common.progress import print_line
from soarbench.report.folder import place_note
from soarbench.report.options import ReportOptions
from soarbench.report.source import GridCells, grid_cells

if TYPE_CHECKING:
    from soarbench.report.report import Report


def report(options: ReportOptions, words: Sequence[str], *, console: Console) -> int:
    """Make a grid's reports again from what its cells stored. -> 1 where something is missing."""
    cells = grid_cells(words)
    built = build(cells, options, console)
    return 0 if len(built.cells) == len(cells.cells) and not built.gaps else 1


def build(cells: GridCells, options: ReportOptions | None, console: Console) -> Report:
    """Write a grid's reports, print the table, and say so where they are not in the usual place."""
    from soarbench.report.build import build_report
    from soarbench.report.text.console import report_parts

    built = build_report(cells, options)
    console.print(Group(*report_parts(built)))
    if note := place_note(built.folder, cells.grid):
        print_line(console, note, "yellow")
    return built
