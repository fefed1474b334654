"""Makes a grid's report of what its cells stored; loads no model and imports no framework."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from soarbench.common.errors import ConfigError
from soarbench.common.files import make_writable
from soarbench.common.strict import did_you_mean
from soarbench.report.folder import report_folder
from soarbench.report.numbers import diagnostics, reference
from soarbench.report.numbers.budgets import asked_costs, matched_tables
from soarbench.report.numbers.curves import build_curves
from soarbench.report.numbers.diversity import Diversity, measure_diversity
from soarbench.report.numbers.estimates import Targets, refuse_unknown_metrics, size_of
from soarbench.report.numbers.exposure import exposure_points
from soarbench.report.numbers.forest import forest_parts
from soarbench.report.numbers.gaming import measure_gaming
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.protocols import refuse_unlike
from soarbench.report.numbers.robustness import robustness_points
from soarbench.report.numbers.samples import read_samples
from soarbench.report.numbers.tables import MethodRow, TaskTable, build_tables
from soarbench.report.numbers.thresholds import crossings
from soarbench.report.numbers.trained_on import trained_on
from soarbench.report.numbers.tuning import choices
from soarbench.report.options import ReportOptions
from soarbench.report.page.page import page_html
from soarbench.report.report import Report
from soarbench.report.source import GridCells, stale_lines
from soarbench.report.text import frames
from soarbench.report.text.gaming import no_diversity_note, sign_numbers
from soarbench.report.text.headline import headline
from soarbench.report.text.latex import latex
from soarbench.report.text.markdown import markdown
from soarbench.report.text.tuning import tuning_numbers
from soarbench.store.cells import Cell, finished_and_holes
from soarbench.store.facts import MetricFacts

#: The counter at which methods are compared beside their last steps. A step of one method costs
#: many times a step of another, and seconds depend on the machine.
MATCHED_COUNTER = "forward_equivalents"
#: Published values that the package brings: of a checkout those of ``results/reference``.
OWN_REFERENCE = Path(__file__).parent / "reference"


def build_report(source: GridCells, options: ReportOptions | None = None) -> Report:
    """Write a grid's report to ``report_folder``, partial where something is missing.

    Raises:
        StoreError: Nothing is finished, or what is stored cannot stand in one table.
        UserError: The folder cannot be written to.
    """
    options = options or ReportOptions()
    grid = source.grid
    cells, holes = finished_and_holes(source.cells, str(source.folder))
    refuse_unlike(cells)
    panels, more_holes = build_panels(cells)
    reference_dir = reference_folder(source.results_dir)
    tables = build_tables(
        cells, panels, [*holes, *more_holes], baseline=source.baseline,
        state=lambda task, facts: targets_of(source, task, facts),
    )  # fmt: skip
    _refuse_unknown(options.thresholds, tables)
    for key, sizes in (("margin", source.margins), ("detect", source.detects)):
        refuse_unknown_metrics(key, sizes, _deciding(tables))
    curves = build_curves(cells, panels, tables)
    exposure = [
        point for table in tables for point in exposure_points(cells, table.task, table.baseline)
    ]
    robustness = [
        point for table in tables for point in robustness_points(cells, table.task, table.baseline)
    ]
    # Importing matplotlib is slow, and who is refused need not wait for it.
    from soarbench.report.figures.figure_set import write_figures

    published = reference.published_table(reference_dir, grid)
    gaming = measure_gaming(panels, _trained_on(tables, cells), source.baseline)
    statistics = {
        table.task: diagnostics.image_statistics(
            cells, table.task, panels[table.task, table.metrics[0]].prompts
        )
        for table in tables
        if table.metrics
    }
    statistics = {task: own for task, own in statistics.items() if len(own)}
    diversity = _diversity(tables, statistics)
    folder = report_folder(source)
    make_writable(folder, "results_dir")
    matched = matched_tables(tables, panels, curves, MATCHED_COUNTER, asked_costs(cells))
    forest = forest_parts(tables, matched)
    figures = write_figures(
        cells, panels, tables, curves, folder, forest=forest, gaming=gaming, statistics=statistics,
        axes=options.axes, formats=source.formats, checkpoint_rule=source.checkpoint_rule,
        published=reference.published_curves(reference_dir) if source.show_published else (),
        exposure=exposure, robustness=robustness,
    )  # fmt: skip
    deciding = [panels.get((table.task, table.final_metric)) for table in tables]
    report = Report(
        grid=grid, folder=folder, cells=tuple(cells), tables=tuple(tables),
        matched=tuple(matched), forest=tuple(forest),
        exposure=tuple(exposure), robustness=tuple(robustness),
        crossings=tuple(crossings(tables, panels, curves, options.thresholds)),
        choices=tuple(choices(source.cells, panels)),
        gaming=tuple(gaming), diversity=tuple(diversity.values()),
        samples=tuple(read_samples(cells, panel) for panel in deciding if panel is not None),
        measured=None if published is None else frames.measured_texts(published, tables, cells),
        published=published,
        # The base is in every task's table, and its gaps are named once.
        gaps=tuple(dict.fromkeys(gap for table in tables for gap in _gaps(table, cells))),
        figures=figures, cautions=(*source.choices, *stale_lines(cells)),
        notes=(
            *figures.notes,
            *(no_diversity_note(task) for task in statistics if task not in diversity),
            *_missing_published(grid, published, reference_dir),
        ),
    )  # fmt: skip
    _write_tables(report)
    return report


def targets_of(source: GridCells, task: str, facts: MetricFacts) -> Targets:
    """What was said beforehand about the metric that decides a task."""
    folder = reference_folder(source.results_dir)
    return Targets(
        metric=facts.name,
        margin=size_of(source.margins, facts),
        detect=size_of(source.detects, facts),
        published=reference.published_scores(folder, source.grid, task, facts.name),
    )


def _deciding(tables: Sequence[TaskTable]) -> list[MetricFacts]:
    """Of every task, the metric that decides it."""
    return [table.facts[table.final_metric] for table in tables if table.final_metric]


def _refuse_unknown(thresholds: Mapping[str, float], tables: Sequence[TaskTable]) -> None:
    deciding = [table.final_metric for table in tables]
    for metric in thresholds:
        if metric not in deciding:
            hint = did_you_mean(metric, deciding)
            raise ConfigError(f"thresholds.{metric}: no task is decided by that metric; {hint}")


def _trained_on(tables: Sequence[TaskTable], cells: Sequence[Cell]) -> dict[str, set[str]]:
    """What drove the training of each task."""
    return {
        table.task: trained_on([cell for cell in cells if cell.task == table.task])
        for table in tables
    }


def _diversity(
    tables: Sequence[TaskTable], statistics: Mapping[str, pd.DataFrame]
) -> dict[str, Diversity]:
    """By task, where prompts have two images."""
    measured = {
        table.task: measure_diversity(
            table.task, statistics[table.task], table.baseline, table.titles
        )
        for table in tables
        if table.task in statistics
    }
    return {task: one for task, one in measured.items() if one is not None}


def _gaps(table: TaskTable, cells: Sequence[Cell]) -> list[str]:
    """What is missing in a task: of the table, and of what was measured beside it."""
    return [*table.gaps(), *diagnostics.gaps(cells, table.task)]


def _missing_published(grid: str, published: pd.DataFrame | None, folder: Path) -> list[str]:
    # A reader should know that rows are missing.
    if published is not None or grid not in reference.PUBLISHED_GRIDS:
        return []
    return [f"Published rows: left out, {folder} has none (soarbench/report/reference has)"]


def reference_folder(results_folder: Path) -> Path:
    """Where published values lie: beside the results, above them in this directory, or our own."""
    # Results of a study may lie folders deep below the ``reference`` that they share. Above the
    # working directory a folder of that name is somebody else's.
    here = Path.cwd()
    around = (
        results_folder,
        *(folder for folder in results_folder.resolve().parents if folder.is_relative_to(here)),
    )
    places = [*(folder / "reference" for folder in around), OWN_REFERENCE]
    full = (place for place in places if (place / "paper_table.csv").is_file())
    return next(full, places[0])


def _write_tables(report: Report) -> None:
    tables = {
        "table": frames.score_numbers(report.tables),
        "matched": frames.matched_numbers(report.matched),
        "thresholds": frames.threshold_numbers(report.crossings),
        "trace": frames.trace_numbers(report.cells),
        "signs_of_gaming": sign_numbers(report.gaming, report.diversity),
    }
    if report.choices:
        tables["tuning"] = tuning_numbers(report.choices)
    if report.measured is not None and report.published is not None:
        tables["published_layout"] = frames.layout_numbers(report.measured, report.published)
    texts = {
        **{f"{name}.csv": frames.csv_text(frame) for name, frame in tables.items()},
        "table.md": markdown(report),
        "table.tex": latex(report),
        # Strict: a nan would be no JSON, and other languages could not read the file.
        "summary.json": json.dumps(_summary(report), indent=1, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        frames.write_text(report.folder / name, text)
    # After all other files: the page holds the figures and their data.
    frames.write_text(report.folder / "index.html", page_html(report))


def _summary(report: Report) -> dict[str, object]:
    published = None
    if report.published is not None:
        rows = report.published.to_dict("records")
        published = {"label": reference.AS_PUBLISHED, "source": reference.SOURCE, "rows": rows}
    tasks = [
        {
            "task": table.task, "final_metric": table.final_metric, "baseline": table.baseline,
            "suites": dict(table.suites), "fingerprints": dict(table.fingerprints),
            "methods": {row.method: _method_summary(table, row) for row in table.rows},
            "headline": headline([one for one in report.forest if one.table.task == table.task]),
            "findings": table.findings(), "notes": table.notes(), "gaps": table.gaps(),
        }
        for table in report.tables
    ]  # fmt: skip
    return {
        "grid": report.grid, "partial": bool(report.gaps), "gaps": list(report.gaps),
        "tasks": tasks, "published": published,
    }  # fmt: skip


def _method_summary(table: TaskTable, row: MethodRow) -> dict[str, object]:
    lines = {name: frames.score_line(table, row, name) for name in table.metrics}
    return {
        "metrics": {
            name: {key: line[key] for key in frames.ESTIMATE_COLUMNS if key in line}
            for name, line in lines.items()
        },
        "budget": dict(row.budget),
        "cell_ids": list(row.cell_ids),
        "mlflow_run_ids": list(row.mlflow_run_ids),
        "missing": [hole.describe() for hole in row.holes],
    }
