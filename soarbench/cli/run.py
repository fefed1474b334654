"""``python -m soarbench run``: a grid from its command line to its table."""

from __future__ import annotations

import os
import platform
import shlex
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from soarbench import __version__
from soarbench.common.errors import UserError
from soarbench.common.files import locked, make_writable, write_atomically
from soarbench.common.progress import GridProgress, Key
from soarbench.config.settings import CellConfig
from soarbench.evaluation.suites import missing_prompts
from soarbench.grid.expand import Plan, expand
from soarbench.jobs.probe import (
    Left,
    finished_cells,
    left_to_measure,
    measure,
    report_failures,
)
from soarbench.launchers.local import LocalLauncher
from soarbench.planning.estimate import seconds_left
from soarbench.report.options import ReportOptions
from soarbench.store.cell_folder import CellFolder, Status
from soarbench.store.reuse import adopt, done_elsewhere

if TYPE_CHECKING:
    from soarbench.jobs.cell import Bench
    from soarbench.report.build import Report
    from soarbench.store.grids import StoredGrid
    from soarbench.tracking.tracker import Tracker

MakeBench = Callable[[Plan], "Bench"]
START: Key = ("", "start")
_LONGEST_REASON = 500
_MISSING_DATA = (
    "there is nothing to train on: give data.path=FILE (data=jsonl), or data=datasets or "
    "data=webdataset with data.path=DIR"
)


def run(arguments: Sequence[str], *, is_dry: bool, as_json: bool = False, console: Console) -> int:
    """Run a grid, or say what would be run.

    Returns:
        0 when every cell is finished and measured, 1 when one failed.

    Raises:
        UserError: The configuration or something it names cannot be used.
    """
    if as_json:
        raise UserError("--json is not there yet")
    plan = expand(arguments)
    if is_dry:
        console.print(dry_table(plan))
        return 0
    return run_plan(plan, console=console, make_bench=_workbench)


def report(options: ReportOptions, words: Sequence[str], *, console: Console) -> int:
    """Make a grid's reports again from what its cells stored.

    Returns:
        0, or 1 when a cell of the grid is not finished.

    Raises:
        UserError: The configuration cannot be used, or nothing is finished.
    """
    from soarbench.store.grids import stored_grid

    stored = stored_grid(words)
    found = _build(stored, options, console)
    return 0 if len(found.cells) == len(stored.cells) else 1


def _build(stored: StoredGrid, options: ReportOptions | None, console: Console) -> Report:
    """Write a grid's reports and print the table."""
    from soarbench.report.build import build_report

    found = build_report(
        stored.folder,
        stored.results_dir,
        grid=stored.grid,
        planned=stored.cells,
        baseline=stored.baseline,
        show_published=stored.show_published,
        checkpoint_rule=stored.checkpoint_rule,
        formats=stored.formats,
        options=options,
    )
    console.print(found)
    return found


def _workbench(plan: Plan) -> Bench:
    if plan.settings.launcher.num_processes > 1:
        from soarbench.launchers.processes import ParallelWorkbench

        return ParallelWorkbench(plan)
    from soarbench.jobs.workbench import Workbench

    return Workbench(plan.settings.device, plan.cache_dir)


def run_plan(plan: Plan, *, console: Console, make_bench: MakeBench) -> int:
    """Bring every cell of a plan to its end and report.

    Args:
        plan: The cells and where they go.
        console: For progress and the table.
        make_bench: Loads the heavy half; called only if a cell is left to do.

    Returns:
        As ``run``.

    Raises:
        UserError: A suite's prompts are not named, or a folder cannot be written to.
    """
    for suite in plan.without_prompts:
        raise UserError(missing_prompts(suite))
    if plan.without_data:
        raise UserError(_MISSING_DATA)
    make_writable(Path(plan.settings.output_dir).expanduser(), "output_dir")
    make_writable(Path(plan.settings.results_dir).expanduser(), "results_dir")
    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder):
        pending = [c for c in plan.cells if not CellFolder(plan.cell_folder(c)).is_finished()]
        _adopt(plan, pending, console)
        failures, unmeasured, tracker = _work(plan, pending, console, make_bench)
        if len(failures) < len(plan.cells):
            _report(plan, console)
            if tracker is not None:
                tracker.log_report(_results_folder(plan) / plan.settings.grid.name)
    for cell_id, error in failures.items():
        place = plan.folder / "cells" / cell_id / "error.txt"
        console.print(
            f"FAILED {cell_id}: {reason(error)} (traceback: {place})",
            style="red",
            markup=False,
            soft_wrap=True,
        )
    report_failures(unmeasured, console)
    return 1 if failures or unmeasured else 0


def _to_measure(plan: Plan, cells: Sequence[CellConfig]) -> Left:
    return left_to_measure(plan, cells if plan.settings.diagnostics else ())


def _adopt(plan: Plan, pending: Sequence[CellConfig], console: Console) -> None:
    """Take over what another grid of the output directory has done."""
    for cell in pending:
        folder = CellFolder(plan.cell_folder(cell))
        grid = adopt(cell, folder, Path(plan.settings.output_dir).expanduser())
        if grid is not None:
            told = f"{cell.label}: done in grid {grid}, taken from there"
            console.print(told, highlight=False, markup=False)


def _work(
    plan: Plan, pending: Sequence[CellConfig], console: Console, make_bench: MakeBench
) -> tuple[dict[str, Exception], dict[str, Exception], Tracker | None]:
    """Run the cells that are left and measure them.

    Returns:
        What failed of either, by cell id, and the tracker where there was something to do.
    """
    left = _to_measure(plan, plan.cells)
    if not pending and not left:
        return {}, {}, None
    progress = GridProgress(console, estimates(plan, pending) | left.seconds)
    with progress.shown():
        with progress.stage(START, "loading models and judges, curating data", 1):
            from soarbench.tracking.tracker import open_tracker

            settings = plan.settings
            output_dir = Path(settings.output_dir).expanduser()
            tracker = open_tracker(settings.tracking, output_dir, settings.grid.name)
            bench = make_bench(plan) if pending or left.jobs else None
            if bench is not None and pending:
                bench.prepare(pending)
        failures: dict[str, Exception] = {}
        if bench is not None and pending:
            failures = _run_cells(plan, pending, bench, tracker, progress)
        left = _to_measure(plan, finished_cells(plan))
        unmeasured = measure(plan, left, prober=bench, tracker=tracker, progress=progress)
    return failures, unmeasured, tracker


def _run_cells(
    plan: Plan,
    pending: Sequence[CellConfig],
    bench: Bench,
    tracker: Tracker,
    progress: GridProgress,
) -> dict[str, Exception]:
    """Bring cells to their end, as one launch; what failed, by cell id."""
    from soarbench.jobs.cell import run_cell

    def work(cell: CellConfig) -> None:
        folder = CellFolder(plan.cell_folder(cell))
        try:
            run_cell(cell, folder, bench=bench, tracker=tracker, progress=progress)
        finally:
            progress.forget_cell(cell.cell_id)

    name = f"{plan.settings.budget.name} {datetime.now().astimezone():%Y-%m-%d %H:%M}"
    tracker.start_launch(name, _launch_tags(plan))
    failures: dict[str, Exception] = {}
    try:
        for cell, error in LocalLauncher().launch(pending, work):
            if error is not None:
                failures[cell.cell_id] = error
                _record_failure(plan, cell, error, tracker)
    except KeyboardInterrupt:
        tracker.end_launch("KILLED")
        raise
    tracker.end_launch("FAILED" if failures else "FINISHED")
    return failures


def _launch_tags(plan: Plan) -> dict[str, str]:
    return {
        "folder": str(plan.folder.resolve()),
        "command": shlex.join(["python", "-m", "soarbench", "run", *plan.arguments]),
        "budget": plan.settings.budget.name,
        # Proof that the rule is older than the numbers that it chooses among.
        "checkpoint_rule": plan.settings.grid.checkpoint_rule,
        "soarbench": __version__,
        "host": platform.node(),
        "cpus": str(os.cpu_count()),
    }


def reason(error: Exception) -> str:
    """One line for a failure."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:_LONGEST_REASON]


def _record_failure(plan: Plan, cell: CellConfig, error: Exception, tracker: Tracker) -> None:
    folder = CellFolder(plan.cell_folder(cell))
    text = "".join(traceback.format_exception(error))
    write_atomically(folder.root / "error.txt", lambda partial: partial.write_text(text))
    folder.update_status(state="failed", reason=reason(error))
    run_id = tracker.mark_failed(cell, folder, reason(error))
    folder.update_status(mlflow_run_id=run_id)


def estimates(plan: Plan, pending: Sequence[CellConfig]) -> dict[Key, float]:
    """Estimated seconds of every stage that is left."""
    rates, processes = plan.settings.budget.rates, plan.settings.launcher.num_processes
    found: dict[Key, float] = {START: rates.start_seconds}
    for cell in pending:
        left = seconds_left(cell, CellFolder(plan.cell_folder(cell)), rates, processes)
        found |= {(cell.cell_id, stage): seconds for stage, seconds in left.items()}
    return found


def dry_table(plan: Plan) -> Table:
    """The cells, what is left of each, and how long that takes."""
    rates, processes = plan.settings.budget.rates, plan.settings.launcher.num_processes
    title = f"grid {plan.settings.grid.name}, budget {plan.settings.budget.name}"
    # Without borders the longest ids stay in one piece on 80 columns.
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("cell", "steps", "state"):
        table.add_column(head, overflow="fold")
    table.add_column("estimate", justify="right")
    total = 0.0
    for cell in plan.cells:
        folder = CellFolder(plan.cell_folder(cell))
        status = folder.status()
        elsewhere = None if status else done_elsewhere(cell, plan.folder.parent)
        left = seconds_left(cell, elsewhere or folder, rates, processes)
        seconds = 0.0 if folder.is_finished() else sum(left.values())
        total += seconds
        steps = str(cell.training.steps) if cell.training is not None else "-"
        state = _state(status) if elsewhere is None else f"done in {elsewhere.grid}"
        table.add_row(cell.cell_id, steps, state, _duration(seconds))
    measuring = sum(_to_measure(plan, plan.cells).seconds.values())
    start = rates.start_seconds if total or measuring else 0.0
    table.add_section()
    table.add_row("loading and curating", "", "", _duration(start))
    table.add_row("diagnostics", "", "", _duration(measuring))
    table.add_row("all", "", "", _duration(total + measuring + start))
    notes = [f"estimates from rates measured on {rates.machine}"]
    notes += [f"to run it, {missing_prompts(suite)}" for suite in plan.without_prompts]
    notes += [_MISSING_DATA] if plan.without_data else []
    table.caption = "\n".join(notes)
    return table


def _state(status: Status | None) -> str:
    if status is None:
        return "to do"
    return {"running": "begun", "finished": "finished", "failed": "failed, to do again"}[
        status.state
    ]


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _results_folder(plan: Plan) -> Path:
    return Path(plan.settings.results_dir).expanduser()


def _report(plan: Plan, console: Console) -> None:
    """Print the table and write the grid's reports."""
    from soarbench.store.grids import planned_grid

    _build(planned_grid(plan), None, console)
