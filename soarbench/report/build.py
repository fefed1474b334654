"""Makes a grid's report of what its cells stored; loads no model and imports no framework."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.text import Text

from soarbench.checkpoint_rule import LAST
from soarbench.figure_formats import FORMATS
from soarbench.files import make_writable, write_atomically
from soarbench.report.curves import CurvePoint, build_curves
from soarbench.report.panels import build_panels
from soarbench.report.reference import (
    AS_PUBLISHED,
    SOURCE,
    PublishedTable,
    published_curves,
    published_table,
)
from soarbench.report.render import (
    budget_table,
    curves_csv,
    markdown,
    score_table,
    summary,
    table_csv,
)
from soarbench.report.store import PlannedCell, read_cells
from soarbench.report.tables import BASELINE, TaskTable, build_tables

if TYPE_CHECKING:
    from soarbench.report.figure_set import FigureSet


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished report; print it on a ``rich`` console.

    Attributes:
        grid: Name of the grid.
        folder: Where its files are.
        tables: One a task.
        curves: The figure's data.
        published: Rows of the paper, None where it has none for this grid.
        gaps: What is missing, a line each.
        figures: The other figures, and what could not be drawn.
    """

    grid: str
    folder: Path
    tables: tuple[TaskTable, ...]
    curves: tuple[CurvePoint, ...]
    published: PublishedTable | None
    gaps: tuple[str, ...]
    figures: FigureSet

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
        for note in self.figures.notes:
            yield Padding(Text(note, style="dim"), (0, 1))
        yield Text(f"Report: {self.folder}")


def build_report(
    grid_folder: Path,
    results_folder: Path,
    *,
    grid: str,
    planned: Sequence[PlannedCell] | None = None,
    baseline: str = BASELINE,
    show_published: bool = False,
    checkpoint_rule: str = LAST,
    formats: Sequence[str] = FORMATS,
) -> Report:
    """Write a grid's report to ``results_folder / grid``; every file whole or not at all.

    Args:
        grid_folder: ``runs/<grid>``.
        results_folder: ``results``; its ``reference`` folder holds published values.
        grid: Name of the grid.
        planned: The launch's cells; None reports all that the folder holds.
        baseline: Method that differences are taken to.
        show_published: Also draw the paper's curves. Only where the protocol is the paper's.
        checkpoint_rule: Which step of each method the figures mark.
        formats: What figures are written as.

    Returns:
        The report, partial where cells or measurements are missing.

    Raises:
        StoreError: Nothing is finished, or what is stored cannot stand in one table.
        UserError: The folder cannot be written to.
    """
    cells, holes = read_cells(grid_folder, planned)
    panels, more_holes = build_panels(cells)
    tables = build_tables(cells, panels, [*holes, *more_holes], baseline=baseline)
    curves = build_curves(cells, panels, tables)
    from soarbench.report.figure_set import write_figures

    reference = results_folder / "reference"
    folder = results_folder / grid
    make_writable(folder, "results_dir")
    report = Report(
        grid=grid,
        folder=folder,
        tables=tuple(tables),
        curves=tuple(curves),
        published=published_table(reference, grid),
        gaps=tuple(dict.fromkeys(gap for table in tables for gap in table.gaps())),
        figures=write_figures(
            cells,
            panels,
            tables,
            curves,
            folder,
            checkpoint_rule=checkpoint_rule,
            formats=formats,
        ),
    )
    _write_figure(report, reference if show_published else None, formats)
    _write_tables(report)
    return report


def _write_tables(report: Report) -> None:
    texts = {
        "table.md": markdown(report.grid, report.tables, report.published, report.gaps),
        "table.csv": table_csv(report.tables),
        "curves.csv": curves_csv(report.curves),
        "summary.json": json.dumps(_summary(report), indent=1, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_atomically(report.folder / name, partial(_write_text, text=text))


def _write_text(path: Path, *, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _summary(report: Report) -> dict[str, object]:
    published = None
    if report.published is not None:
        rows = [
            dict(zip(report.published.columns, row, strict=True)) for row in report.published.rows
        ]
        published = {"label": AS_PUBLISHED, "source": SOURCE, "rows": rows}
    return {
        "grid": report.grid,
        "partial": report.is_partial,
        "gaps": list(report.gaps),
        "tasks": [summary(table) for table in report.tables],
        "published": published,
    }


def _write_figure(report: Report, reference: Path | None, formats: Sequence[str]) -> None:
    """Draw the curves; without any point there is no figure, not even an older one."""
    from soarbench.report.figures import draw_curves, save

    if not report.curves:
        for suffix in FORMATS:
            (report.folder / f"curves.{suffix}").unlink(missing_ok=True)
        return
    figure = draw_curves(
        report.curves, published=published_curves(reference) if reference is not None else ()
    )
    for suffix in formats:
        write_atomically(
            report.folder / f"curves.{suffix}",
            partial(save, figure, file_format=suffix),
        )
