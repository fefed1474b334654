"""``python -m soarbench run``: a grid from its command line to its table."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from soarbench import __version__
from soarbench.cell_folder import CellFolder, Status
from soarbench.config import CellConfig
from soarbench.data.suites import missing_prompts
from soarbench.errors import UserError
from soarbench.estimate import seconds_left
from soarbench.files import locked, make_writable, write_atomically
from soarbench.grid import Plan, expand
from soarbench.launchers.local import LocalLauncher
from soarbench.progress import GridProgress, Key

if TYPE_CHECKING:
    from soarbench.cell import Bench
    from soarbench.tracking import Tracker

MakeBench = Callable[[Plan], "Bench"]
START: Key = ("", "start")
_LONGEST_REASON = 500


def run(arguments: Sequence[str], *, is_dry: bool, console: Console) -> int:
    """Run a grid, or say what would be run.

    Returns:
        0 when every cell is finished, 1 when one failed.

    Raises:
        UserError: The configuration or something it names cannot be used.
    """
    plan = expand(arguments)
    if is_dry:
        console.print(dry_table(plan))
        return 0
    return run_plan(plan, console=console, make_bench=_workbench)


def report(arguments: Sequence[str], *, console: Console) -> int:
    """Make a grid's reports again from what its cells stored.

    Returns:
        0, or 1 when a cell of the grid is not finished.

    Raises:
        UserError: The configuration cannot be used, or nothing is finished.
    """
    from soarbench.report.build import build_report
    from soarbench.report.request import read_options
    from soarbench.stored import stored_grid

    options, words = read_options(arguments)
    stored = stored_grid(words)
    found = build_report(
        stored.folder,
        stored.results_dir,
        grid=stored.grid,
        planned=stored.cells,
        baseline=stored.baseline,
        options=options,
    )
    console.print(found)
    return 0 if len(found.cells) == len(stored.cells) else 1


def _workbench(plan: Plan) -> Bench:
    if plan.settings.launcher.num_processes > 1:
        from soarbench.launchers.processes import ParallelWorkbench

        return ParallelWorkbench(plan)
    from soarbench.workbench import Workbench

    return Workbench(plan.settings.device, plan.folder / "data")


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
    make_writable(Path(plan.settings.output_dir).expanduser(), "output_dir")
    make_writable(Path(plan.settings.results_dir).expanduser(), "results_dir")
    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder):
        pending = [c for c in plan.cells if not CellFolder(plan.cell_folder(c)).is_finished()]
        failures = _work(plan, pending, console, make_bench) if pending else {}
        if len(failures) < len(plan.cells):
            _report(plan, console)
    for cell_id, error in failures.items():
        place = plan.folder / "cells" / cell_id / "error.txt"
        console.print(
            f"FAILED {cell_id}: {reason(error)} (traceback: {place})",
            style="red",
            markup=False,
            soft_wrap=True,
        )
    return 1 if failures else 0


def _work(
    plan: Plan, pending: Sequence[CellConfig], console: Console, make_bench: MakeBench
) -> dict[str, Exception]:
    """Run the cells that are left; what failed, by cell id."""
    progress = GridProgress(console, estimates(plan, pending))
    with progress.shown():
        with progress.stage(START, "loading models and judges, curating data", 1):
            from soarbench.cell import run_cell
            from soarbench.tracking import open_tracker

            settings = plan.settings
            output_dir = Path(settings.output_dir).expanduser()
            tracker = open_tracker(settings.tracking, output_dir, settings.grid.name)
            bench = make_bench(plan)
            bench.prepare(pending)

        def work(cell: CellConfig) -> None:
            folder = CellFolder(plan.cell_folder(cell))
            try:
                run_cell(cell, folder, bench=bench, tracker=tracker, progress=progress)
            finally:
                progress.forget_cell(cell.cell_id)

        name = f"{settings.budget.name} {datetime.now().astimezone():%Y-%m-%d %H:%M}"
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
        "budget": plan.settings.budget.name,
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
    table = Table(title=f"grid {plan.settings.grid.name}, budget {plan.settings.budget.name}")
    for title in ("cell", "steps", "state"):
        table.add_column(title, overflow="fold")
    table.add_column("estimated time", justify="right")
    total = 0.0
    for cell in plan.cells:
        folder = CellFolder(plan.cell_folder(cell))
        status = folder.status()
        is_finished = folder.is_finished()
        left = seconds_left(cell, folder, rates, processes)
        seconds = 0.0 if is_finished else sum(left.values())
        total += seconds
        steps = str(cell.training.steps) if cell.training is not None else "-"
        table.add_row(cell.cell_id, steps, _state(status), _duration(seconds))
    start = rates.start_seconds if total else 0.0
    table.add_section()
    table.add_row("loading and curating", "", "", _duration(start))
    table.add_row("all", "", "", _duration(total + start))
    notes = [f"estimates from rates measured on {rates.machine}"]
    notes += [f"to run it, {missing_prompts(suite)}" for suite in plan.without_prompts]
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


def _report(plan: Plan, console: Console) -> None:
    """Print the table and write the grid's reports."""
    from soarbench.report.build import build_report

    settings = plan.settings
    console.print(
        build_report(
            plan.folder,
            Path(settings.results_dir).expanduser(),
            grid=settings.grid.name,
            planned=plan.cells,
            baseline=settings.grid.baseline,
        )
    )
