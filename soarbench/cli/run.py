"""``run`` and ``diagnose``: a grid from its command line to its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from rich.console import Console

from baselines.loop.disk import remove_partials
from soarbench.cli.disk import require_space
from soarbench.cli.dry_run import MISSING_DATA, dry_table, job_list
from soarbench.cli.exported import refuse_exports
from soarbench.cli.listing import lines_of, print_rows
from soarbench.cli.sync import deliver_grid, store_command
from soarbench.common.errors import Damaged, UserError, reason
from soarbench.common.files import locked, make_writable, require_writable
from soarbench.common.imports import large_imports
from soarbench.common.progress import print_line
from soarbench.config.folders import CONF_DIR, search_path
from soarbench.config.suites import missing_prompts
from soarbench.grid import addresses
from soarbench.grid.checks import require_device
from soarbench.grid.expand import Grid, expand, require_baseline
from soarbench.grid.reward_lookup import look_up_code, look_up_rewards
from soarbench.jobs.base import Job, Workbench
from soarbench.jobs.draw import Draw
from soarbench.jobs.graph import all_jobs, diagnostic_keys, grid_jobs, settle
from soarbench.jobs.log import Log
from soarbench.jobs.recorded import with_recorded
from soarbench.jobs.repair import set_damaged_aside
from soarbench.jobs.snapshots import SnapshotKeeper
from soarbench.launchers.base import MakeWorkbench, Submitter
from soarbench.launchers.run_grid import Failures, run_grid
from soarbench.store.artefact import Store, refuse_old


def run(arguments: Sequence[str], *, is_dry: bool, as_json: bool, console: Console) -> int:
    """Run a grid, or say what would be run. -> 1 when a cell failed or could not be measured.

    Without any setting it prints the grids that there are.
    """
    if not as_json and all(word.startswith(f"{CONF_DIR}=") for word in arguments):
        _say_grids(arguments, console)
        return 0
    grid = expand(arguments)
    require_baseline(grid.settings.grid)
    look_up_rewards(grid.cells)
    look_up_code(grid.cells)
    refuse_old(grid.store.root, grid.settings.grid.name)
    refuse_exports(grid.store.root, grid.settings.grid.name)
    if is_dry:
        for key, folder in _written_to(grid).items():
            require_writable(folder, key)
    if as_json:
        if not is_dry:
            raise UserError("--json lists jobs: add --dry-run")
        # Past rich, which would wrap it to the terminal's width.
        console.file.write(json.dumps(job_list(grid), indent=1) + "\n")
        return 0
    if grid.settings.launcher.submits:
        return _submit(grid, is_dry=is_dry, console=console)
    # Other launchers compute on other machines.
    if grid.settings.launcher.kind == "local":
        require_device(grid.settings.device)
    if is_dry:
        console.print(dry_table(grid))
        return 0
    return run_whole(grid, console=console, make_workbench=workbench)


def _say_grids(words: Sequence[str], console: Console) -> None:
    print_rows(console, "grids", lines_of("grid", search_path(words)))
    print_line(console, "\nchoose one: python -m soarbench run grid=reward_specific --dry-run")


def _submit(grid: Grid, *, is_dry: bool, console: Console) -> int:
    """Hand a grid to a queue, or print the script that would be."""
    queue = grid.settings.launcher.build()
    assert isinstance(queue, Submitter)
    # Ray would say so in the job, after its wait in the queue.
    if (device := grid.settings.device) not in ("auto", "cuda", "cpu"):
        kind = grid.settings.launcher.kind
        raise UserError(f"device={device}: with launcher={kind} a job is given its GPU; use auto")
    if is_dry:
        script = queue.script(grid)
        # Beside the script, so that it can be written to a file as it is.
        Console(stderr=True).print(dry_table(grid))
        console.file.write(script)
        return 0
    _refuse_what_cannot_run(grid)
    require_space(grid, _pending(all_jobs(grid), grid.store))
    print_line(console, queue.submit(grid))
    return 0


def workbench(grid: Grid) -> Workbench:
    """The heavy half, for one process or several."""
    if grid.settings.launcher.count > 1:
        with large_imports():
            from soarbench.jobs.distributed import DistributedWorkbench

        return DistributedWorkbench(grid)
    with large_imports():
        from soarbench.jobs.workbench import ModelWorkbench

    return ModelWorkbench(grid.settings.device, grid.store)


def run_whole(grid: Grid, *, console: Console, make_workbench: MakeWorkbench) -> int:
    """As ``run``; ``make_workbench`` is called only if something is left to do."""
    results_dir = _refuse_what_cannot_run(grid)
    with locked(grid.folder):
        repaired: set[str] = set()
        while True:
            try:
                return _run_and_report(
                    grid, results_dir, repaired, console=console, make_workbench=make_workbench
                )
            except Damaged as damage:
                # What no job of this launch read, a report does.
                if damage.address in repaired:
                    raise
                print_line(console, str(damage), "yellow")
                repaired.add(damage.address)


def _run_and_report(
    grid: Grid,
    results_dir: Path,
    repaired: AbstractSet[str],
    *,
    console: Console,
    make_workbench: MakeWorkbench,
) -> int:
    """Do what is left, and what damaged ``repaired``; ``Damaged`` where a report meets more."""
    failures, tracker, last = Failures(), None, ""
    jobs = all_jobs(grid)
    folders = [grid.folder / addresses.cell_id(cell) for cell in grid.cells]
    for line in set_damaged_aside(jobs, grid.store, folders):
        print_line(console, line, "yellow")
    for line in settle(jobs, grid.store, grid.settings.stale):
        print_line(console, line, "yellow")
    pending = _pending(jobs, grid.store, repaired)
    # What only waits for being delivered belongs to the launch that it was made by.
    if not all(isinstance(job, Log) and job.is_finished(grid.store) for job in pending):
        require_space(grid, pending)
        failures, tracker = run_grid(grid, pending, console=console, make_workbench=make_workbench)
    grid.store.remove_partials()
    remove_partials(results_dir / grid.settings.grid.name)
    SnapshotKeeper(jobs, grid.store, grid.settings.store.keep_snapshots).tidy()
    # Also after a failure: what the other cells came to is worth seeing.
    if len(failures.cells) < len(grid.cells):
        from soarbench.cli.report import build
        from soarbench.report.source import cells_of

        built = build(cells_of(with_recorded(grid)), None, console)
        last = where_to_look(grid, built.folder)
        if tracker is not None:
            tracker.log_report(built.folder)
    deliver_grid(grid, tracker, console)
    say_failures(grid, failures, console)
    if last:
        print_line(console, last)
    return 1 if failures else 0


def where_to_look(grid: Grid, folder: Path) -> str:
    """The page of a report, and the command that opens MLflow where the grid is tracked."""
    page = f"open {folder / 'index.html'}"
    if not grid.settings.tracking.enabled:
        return page
    return f"{page}; in MLflow: {store_command('ui', grid)}"


def _refuse_what_cannot_run(grid: Grid) -> Path:
    """``UserError`` now, and not after hours of training. -> Where reports go."""
    for suite in grid.without_prompts:
        raise UserError(missing_prompts(suite))
    if grid.without_data:
        raise UserError(MISSING_DATA)
    folders = _written_to(grid)
    for key, folder in folders.items():
        make_writable(folder, key)
    grid.folder.mkdir(parents=True, exist_ok=True)
    return folders["results_dir"]


def _written_to(grid: Grid) -> dict[str, Path]:
    """The folders that a run writes to, by their settings."""
    results_dir = Path(grid.settings.results_dir).expanduser()
    return {"output_dir": grid.store.root, "results_dir": results_dir}


def _pending(
    jobs: Sequence[Job], store: Store, repaired: AbstractSet[str] = frozenset()
) -> list[Job]:
    """Jobs that are left, and the logs of what was logged and is now gone.

    Of images that are ``repaired`` the damaged ones are removed, and drawn again.
    """
    drawn = [job for job in jobs if isinstance(job, Draw) and job.address in repaired]
    again = {job.key for job in drawn if job.remove_unreadable(store)}

    def is_left(job: Job) -> bool:
        return not job.is_done(store) or job.key in again

    addresses_left = {job.address for job in jobs if is_left(job)}
    # What fails is told of a cell whose log it stops.
    return [
        job
        for job in jobs
        if is_left(job) or (job.kind == "log" and addresses_left.intersection(job.waits_for))
    ]


def diagnose(
    arguments: Sequence[str], *, console: Console, make_workbench: MakeWorkbench = workbench
) -> int:
    """Measure the finished cells that were not measured yet. -> 1 when not all cells are."""
    grid = expand(arguments)
    refuse_old(grid.store.root, grid.settings.grid.name)
    refuse_exports(grid.store.root, grid.settings.grid.name)
    if grid.settings.launcher.submits:
        raise UserError(
            f"launcher={grid.settings.launcher.kind}: only 'run' is submitted; it measures, too, "
            "with diagnostics=true"
        )
    # Whatever diagnostics= says: who asks for them by name wants them.
    jobs = grid_jobs(grid.cells, diagnostics=True)
    finished = {
        addresses.cell_id(job.cell)
        for job in jobs
        if type(job) is Log and job.is_finished(grid.store)
    }
    if not finished:
        raise UserError(
            f"{grid.folder} has no finished cell of this grid; run 'python -m soarbench run "
            f"grid={grid.settings.grid.name}' with the same settings first"
        )
    failures, tracker, probing = Failures(), None, diagnostic_keys(jobs, grid.cells)
    with locked(grid.folder):
        pending = [
            job
            for job in jobs
            if job.key in probing
            and addresses.cell_id(job.cell) in finished
            and not job.is_done(grid.store)
        ]
        if pending:
            failures, tracker = run_grid(
                grid, pending, console=console, make_workbench=make_workbench
            )
        deliver_grid(grid, tracker, console)
    say_failures(grid, failures, console)
    print_line(
        console,
        f"measured {len(finished) - len(failures.unmeasured)} of {len(grid.cells)} cells in "
        f"{grid.folder}; 'python -m soarbench report' with the same settings draws them",
    )
    return 0 if not failures and len(finished) == len(grid.cells) else 1


def say_failures(grid: Grid, failures: Failures, console: Console) -> None:
    """A line for each cell that failed or could not be measured."""
    for cell_id, error in failures.cells.items():
        remedy = f"(traceback: {grid.folder / cell_id / 'error.txt'})"
        print_line(console, f"FAILED {cell_id}: {reason(error)} {remedy}", "red")
    for cell_id, error in failures.unmeasured.items():
        remedy = "the same command tries again, diagnostics=false runs without"
        print_line(console, f"NOT MEASURED {cell_id}: {reason(error)}; {remedy}", "red")
