"""Brings every artefact of a grid to its end, as one launch, and says what failed."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import shlex
import traceback
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import Console

from baselines.loop.disk import StorageError
from soarbench import __version__
from soarbench.common.errors import JobFailed, UserError, reason
from soarbench.common.files import write_atomically
from soarbench.common.progress import GridProgress, Key, print_line
from soarbench.grid import addresses
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Context, Job, Workbench
from soarbench.jobs.graph import grid_jobs
from soarbench.jobs.log import Log, LogDiagnostics
from soarbench.jobs.prepare import START
from soarbench.jobs.snapshots import SnapshotKeeper
from soarbench.launchers.base import Launch, Launcher, MakeWorkbench
from soarbench.launchers.engine import Blocked
from soarbench.launchers.live import Live

if typing.TYPE_CHECKING:
    from soarbench.tracking.tracker import Tracker

log = logging.getLogger(__name__)
#: Kinds of jobs that only read what is stored, so that no model is loaded for them.
_LIGHT = ("log", "log diagnostics", "statistics")


@dataclass(kw_only=True)
class Failures:
    """What cells, or the diagnostics of finished ones, failed with, by the cell's id."""

    cells: dict[str, Exception] = field(default_factory=dict)
    unmeasured: dict[str, Exception] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.cells or self.unmeasured)


def estimates(grid: Grid, jobs: Iterable[Job]) -> dict[Key, float]:
    """Estimated seconds of every job, and of loading what they need."""
    rates, processes = grid.settings.budget.rates, grid.settings.launcher.count
    seconds = {job.key: job.seconds(grid.store, rates) for job in jobs}
    # Rates are of one process.
    seconds |= {key: value / processes for key, value in seconds.items() if key[1] == "train"}
    is_heavy = any(kind not in _LIGHT for _, kind in seconds)
    return {START: rates.start_seconds if is_heavy else 0.0} | seconds


def run_grid(
    grid: Grid, pending: Sequence[Job], *, console: Console, make_workbench: MakeWorkbench
) -> tuple[Failures, Tracker]:
    """Run the jobs of a grid that are left. -> What failed, and the tracker, for a report.

    ``pending`` has each job after those that it waits for. ``UserError`` where something that they
    depend on cannot be used; nothing was started.
    """
    settings, store = grid.settings, grid.store
    launcher = settings.launcher.build()
    # A plug-in's: its configuration's base class imports none of this, and cannot promise it.
    if not isinstance(launcher, Launcher):
        raise UserError(
            f"launcher {settings.launcher.kind!r}: builds no Launcher, but {launcher!r}"
        )
    seconds = estimates(grid, pending)
    progress = GridProgress(console, seconds, keep=Live(grid.folder).keep)
    launch = Launch(grid=grid, make_workbench=make_workbench, progress=progress, seconds=seconds)
    say = functools.partial(print_line, console, style="yellow")
    failures = Failures()
    with progress.shown(), contextlib.closing(launcher):
        # MLflow takes seconds to import, and a dry run needs it not.
        from soarbench.tracking.tracker import open_tracker

        tracker = open_tracker(settings.tracking, grid.folder, say)
        workbench = launcher.open(launch, [job for job in pending if job.kind not in _LIGHT])
        context = Context(
            store=store,
            # Jobs of this process use none where workers have their own.
            workbench=typing.cast("Workbench", workbench),
            tracker=tracker,
            progress=progress,
        )
        unmade = {job.address for job in pending if not isinstance(job, Log)}
        for job in pending:
            # Not of a cell that only waits for being delivered: its results stay what they are.
            is_whole = unmade.isdisjoint(job.waits_for)
            if type(job) is Log and not (is_whole and job.is_finished(store)):
                record = job.record(store)
                record.describe(job.description)
                record.update_status(state="running", reason=None)
        keep = settings.store.keep_snapshots
        jobs = [*grid_jobs(grid.cells, diagnostics=settings.diagnostics), *pending]
        keeper = SnapshotKeeper(jobs, store, keep)
        name = f"{settings.budget.name} {datetime.now().astimezone():%Y-%m-%d %H:%M}"
        tracker.start_launch(name, _launch_tags(grid))
        try:
            for job, error in launcher.run(pending, context):
                if error is not None:
                    _note(job, error, context, failures)
                else:
                    keeper.ended(job)
        except KeyboardInterrupt:
            tracker.end_launch("KILLED")
            raise
        tracker.end_launch("FAILED" if failures.cells else "FINISHED")
    return failures, tracker


def _note(job: Job, error: Exception, context: Context, failures: Failures) -> None:
    """Keep a failure with the artefact, and with the cell whose log it stops."""
    text = _trace(error)
    if not isinstance(job, Log):
        # What only waited is noted where it broke.
        if not isinstance(error, Blocked):
            context.store.artefact(job.address).note_failure(text)
        return
    cell_id, cause = addresses.cell_id(job.cell), error.__cause__ or error
    assert isinstance(cause, Exception)
    if isinstance(job, LogDiagnostics):
        # Diagnostics wait for the cell's log, so a failed cell is not counted twice.
        if cell_id not in failures.cells:
            failures.unmeasured[cell_id] = cause
        return
    failures.cells[cell_id] = error
    record = job.record(context.store)
    try:
        write_atomically(record.error_path, lambda partial: partial.write_text(text))
        # Before the tracker is told: if that fails too, the reason is on disk.
        record.update_status(state="failed", reason=reason(error))
    except StorageError as fault:
        # Perhaps why it failed; the other cells go on.
        log.warning("the state of %s is not kept: %s", cell_id, fault)
        return
    assert context.tracker is not None
    run_id = context.tracker.mark_failed(job.described(context.store), reason(error))
    record.update_status(mlflow_run_id=run_id)


def _trace(error: Exception) -> str:
    # Of the process in which it happened, where that was another.
    cause = error.__cause__ or error
    if isinstance(cause, JobFailed):
        return cause.traceback
    return "".join(traceback.format_exception(error))


def _launch_tags(grid: Grid) -> dict[str, str]:
    return {
        "folder": str(grid.folder.resolve()),
        "command": shlex.join(["python", "-m", "soarbench", "run", *grid.arguments]),
        "budget": grid.settings.budget.name,
        # Proof that the rule is older than the numbers that it chooses among.
        "checkpoint_rule": grid.settings.grid.checkpoint_rule,
        "soarbench": __version__,
        "host": platform.node(),
        "cpus": str(os.cpu_count()),
    }
