"""Measures finished cells for signs of gaming: after a run, or by ``python -m soarbench diagnose``.

What was measured is kept, each table whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from soarbench.common.errors import UserError
from soarbench.common.files import locked, write_atomically
from soarbench.common.progress import GridProgress, Key
from soarbench.config.settings import BASE, CellConfig
from soarbench.grid.expand import Plan, expand
from soarbench.launchers.local import LocalLauncher
from soarbench.planning.estimate import num_images
from soarbench.store.cell_folder import CellFolder
from soarbench.store.diagnostics import images_path, norms_path, source_key

if TYPE_CHECKING:
    from soarbench.tracking.tracker import Tracker

#: On two cores, in the laboratory; progress corrects them as it goes.
_SECONDS_PER_IMAGE, _SECONDS_PER_PROBING = 0.003, 12.0

Job = tuple[CellConfig, CellConfig]
"""A cell, and the trained cell on whose data it is probed: itself, but for the base."""


class Prober(Protocol):
    """What measuring asks of ``workbench.Workbench``."""

    def probe(self, cell: CellConfig, source: CellConfig, folder: CellFolder) -> Iterator[int]:
        """Follow a cell's models along the images of ``source``; yields every measured step."""
        ...


@dataclass(frozen=True)
class Left:
    """What is to be measured.

    Attributes:
        cells: Whose images have no statistics yet.
        jobs: Whose paths were not followed yet.
    """

    cells: tuple[CellConfig, ...]
    jobs: tuple[Job, ...]

    @property
    def seconds(self) -> dict[Key, float]:
        """Estimated seconds of every stage."""
        found = {_images_key(cell): _SECONDS_PER_IMAGE * _total_images(cell) for cell in self.cells}
        return found | {_key(job): _SECONDS_PER_PROBING for job in self.jobs}

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.cells or self.jobs)


def left_to_measure(plan: Plan, cells: Sequence[CellConfig]) -> Left:
    """What was not measured yet of these cells, as if all of them were finished."""
    return Left(
        tuple(cell for cell in cells if not images_path(plan.cell_folder(cell)).is_file()),
        # The norms are written last.
        tuple(
            (cell, source)
            for cell, source in probe_jobs(cells)
            if not norms_path(plan.cell_folder(cell), source_key(source)).is_file()
        ),
    )


def probe_jobs(cells: Sequence[CellConfig]) -> list[Job]:
    """Every trained cell on its own task, and the base on each task that has a trained cell."""
    trained = [cell for cell in cells if cell.data is not None]
    sources = {cell.task_name: cell for cell in reversed(trained)}
    jobs = [(cell, cell) for cell in trained]
    for cell in cells:
        if cell.method_name == BASE:
            jobs += [(cell, source) for source in sources.values()]
    return jobs


def finished_cells(plan: Plan) -> list[CellConfig]:
    """The cells of a plan that can be measured."""
    return [cell for cell in plan.cells if CellFolder(plan.cell_folder(cell)).is_finished()]


def measure(
    plan: Plan, left: Left, *, prober: Prober | None, tracker: Tracker, progress: GridProgress
) -> dict[str, Exception]:
    """Measure what is left, cell by cell, and log it.

    Args:
        plan: Where cells keep their files.
        left: From ``left_to_measure``, of finished cells.
        prober: Loads models; may be None where no path is to be followed.
        tracker: Is given every cell that was measured.
        progress: Counts.

    Returns:
        What failed, by cell id. A failure leaves the cell finished, and the others go on.
    """
    touched = {cell.cell_id: cell for cell in (*left.cells, *(cell for cell, _ in left.jobs))}

    def work(cell: CellConfig) -> None:
        folder = CellFolder(plan.cell_folder(cell))
        if cell in left.cells:
            _measure_images(cell, folder, progress)
        for job in left.jobs:
            if job[0] is cell:
                assert prober is not None, "paths are left to follow"
                _follow(job, folder, prober, progress)
        tracker.log_diagnostics(cell, folder)

    outcomes = LocalLauncher().launch(list(touched.values()), work)
    return {cell.cell_id: error for cell, error in outcomes if error is not None}


def _total_images(cell: CellConfig) -> int:
    return sum(num_images(cell).values()) * len(cell.steps)


def _images_key(cell: CellConfig) -> Key:
    # Other than the keys of the cell's own stages, which are forgotten when it ends.
    return f"diagnostics of {cell.cell_id}", "images"


def _key(job: Job) -> Key:
    return f"diagnostics of {job[0].cell_id}", f"probe {job[1].task_name}"


def _measure_images(cell: CellConfig, folder: CellFolder, progress: GridProgress) -> None:
    import pyarrow.parquet as pq

    from soarbench.jobs.image_table import image_table

    title = f"{cell.label}: image statistics"
    with progress.stage(_images_key(cell), title, _total_images(cell)) as stage:
        table = image_table(cell, folder, stage.advance)
    write_atomically(images_path(folder.root), lambda partial: pq.write_table(table, partial))


def _follow(job: Job, folder: CellFolder, prober: Prober, progress: GridProgress) -> None:
    cell, source = job
    title = f"{cell.label}: paths of {source.task_name} images"
    with progress.stage(_key(job), title, len(cell.steps)) as stage:
        for _ in prober.probe(cell, source, folder):
            stage.advance()


def diagnose(
    arguments: Sequence[str],
    *,
    console: Console,
    make_prober: Callable[[Plan], Prober] | None = None,
) -> int:
    """Measure the finished cells of a grid that were not measured yet.

    Args:
        arguments: Settings, as for a run.
        console: For progress.
        make_prober: Loads the heavy half, only if a path is left to follow; None is a workbench.

    Returns:
        0; 1 when a cell of the grid is not finished or could not be measured.

    Raises:
        UserError: The configuration cannot be used, or no cell is finished.
    """
    plan = expand(arguments)
    finished = finished_cells(plan)
    if not finished:
        raise UserError(
            f"{plan.folder} has no finished cell of this grid; run 'python -m soarbench run "
            f"grid={plan.settings.grid.name}' with the same settings first"
        )
    with locked(plan.folder):
        failures = _diagnose(plan, finished, console, make_prober or _workbench)
    report_failures(failures, console)
    console.print(
        f"measured {len(finished) - len(failures)} of {len(plan.cells)} cells in {plan.folder}; "
        "'python -m soarbench report' with the same settings draws them",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0 if not failures and len(finished) == len(plan.cells) else 1


def _diagnose(
    plan: Plan,
    finished: Sequence[CellConfig],
    console: Console,
    make_prober: Callable[[Plan], Prober],
) -> Mapping[str, Exception]:
    left = left_to_measure(plan, finished)
    if not left:
        return {}
    from soarbench.tracking.tracker import open_tracker

    settings = plan.settings
    output_dir = Path(settings.output_dir).expanduser()
    tracker = open_tracker(settings.tracking, output_dir, settings.grid.name)
    progress = GridProgress(console, left.seconds)
    with progress.shown():
        prober = make_prober(plan) if left.jobs else None
        return measure(plan, left, prober=prober, tracker=tracker, progress=progress)


def report_failures(failures: Mapping[str, Exception], console: Console) -> None:
    """Say what could not be measured, a line each."""
    for cell_id, error in failures.items():
        lines = str(error).strip().splitlines() or ["no message"]
        console.print(
            f"NOT MEASURED {cell_id}: {type(error).__name__}: {lines[0]}; the same command tries "
            "again, diagnostics=false runs without",
            style="red",
            markup=False,
            soft_wrap=True,
        )


def _workbench(plan: Plan) -> Prober:
    from soarbench.jobs.workbench import Workbench

    return Workbench(plan.settings.device, plan.cache_dir)
