"""A finished report, from which page, Markdown, LaTeX and console are printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.text import Text

from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.samples import Samples
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.numbers.thresholds import Crossing
from soarbench.report.text.console import budget_table, score_table
from soarbench.store.cells import Cell

if TYPE_CHECKING:
    from soarbench.report.figures.figure_set import FigureSet


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished report; print it on a ``rich`` console.

    Attributes:
        grid: Name of the grid.
        folder: Where its files are.
        cells: Finished ones.
        tables: One a task.
        matched: The methods at equal cost.
        crossings: What each needs to reach a value.
        curves: The figure's data.
        samples: Stored images, one entry a task.
        measured: Measured rows under the columns of the paper's table, None where it has none.
        published: Rows of the paper, None where it has none for this grid.
        gaps: What is missing, a line each.
        stale: What other code than today's made, a line each.
        figures: The other figures, and what could not be drawn.
        notes: What was left out, a line each.
    """

    grid: str
    folder: Path
    cells: tuple[Cell, ...]
    tables: tuple[TaskTable, ...]
    matched: tuple[MatchedTable, ...]
    crossings: tuple[Crossing, ...]
    curves: tuple[CurvePoint, ...]
    samples: tuple[Samples, ...]
    measured: pd.DataFrame | None
    published: pd.DataFrame | None
    gaps: tuple[str, ...]
    stale: tuple[str, ...]
    figures: FigureSet
    notes: tuple[str, ...]

    @property
    def is_partial(self) -> bool:
        """Whether a cell or a measurement is missing."""
        return bool(self.gaps)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Tables, findings, notes, what is missing, and where the files are."""
        for table in self.tables:
            yield score_table(table)
            yield budget_table(table)
            for text in table.findings():
                yield Padding(Text(text, style="bold"), (0, 1))
            for text in table.notes():
                yield Padding(Text(text, style="dim"), (0, 1))
            yield ""
        if self.is_partial:
            yield Text("Partial report. Missing:", style="bold yellow")
            for gap in self.gaps:
                yield Padding(Text(gap, style="yellow"), (0, 2))
        for line in self.stale:
            yield Text(line, style="yellow")
        for note in self.notes:
            yield Padding(Text(note, style="dim"), (0, 1))
        yield Text(f"Report: {self.folder}")
