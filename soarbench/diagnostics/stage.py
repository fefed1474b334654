"""``python -m soarbench diagnose``: measures finished cells; what was measured is kept."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from soarbench.cell_folder import CellFolder
from soarbench.config import BASE, CellConfig
from soarbench.diagnostics.files import images_path, norms_path
from soarbench.errors import UserError
from soarbench.estimate import num_images
from soarbench.files import locked, write_atomically
from soarbench.grid import Plan, expand
from soarbench.progress import GridProgress, Key

#: On two cores, in the laboratory; progress corrects them as it goes.
_SECONDS_PER_IMAGE, _SECONDS_PER_PROBING = 0.004, 40.0

Job = tuple[CellConfig, CellConfig]
"""A cell, and the trained cell on whose data it is probed: itself, but for the base."""


def diagnose(arguments: Sequence[str], *, console: Console) -> int:
    """Measure the finished cells of a grid that were not measured yet.

    Returns:
        0; 1 when a cell of the grid is not finished.

    Raises:
        UserError: The configuration cannot be used, or no cell is finished.
    """
    plan = expand(arguments)
    finished = [c for c in plan.cells if CellFolder(plan.cell_folder(c)).is_finished()]
    if not finished:
        raise UserError(
            f"{plan.folder} has no finished cell of this grid; run 'python -m soarbench run "
            f"grid={plan.settings.grid.name}' with the same settings first"
        )
    with locked(plan.folder):
        _measure(plan, finished, console)
    console.print(
        f"measured {len(finished)} of {len(plan.cells)} cells in {plan.folder}; "
        "'python -m soarbench report' with the same settings draws them",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0 if len(finished) == len(plan.cells) else 1


def probe_jobs(cells: Sequence[CellConfig]) -> list[Job]:
    """Every trained cell on its own task, and the base on each task that has a trained cell."""
    trained = [cell for cell in cells if cell.method_name != BASE]
    sources = {cell.task_name: cell for cell in reversed(trained)}
    jobs = [(cell, cell) for cell in trained]
    for cell in cells:
        if cell.method_name == BASE:
            jobs += [(cell, source) for source in sources.values()]
    return jobs


def _measure(plan: Plan, finished: Sequence[CellConfig], console: Console) -> None:
    cells = [cell for cell in finished if not images_path(plan.cell_folder(cell)).is_file()]
    # The norms are written last.
    jobs = [
        (cell, source)
        for cell, source in probe_jobs(finished)
        if not norms_path(plan.cell_folder(cell), source.task_name).is_file()
    ]
    seconds: dict[Key, float] = {
        (cell.cell_id, "images"): _SECONDS_PER_IMAGE * _total_images(cell) for cell in cells
    }
    seconds |= {_key(job): _SECONDS_PER_PROBING for job in jobs}
    progress = GridProgress(console, seconds)
    with progress.shown():
        for cell in cells:
            _measure_images(cell, plan, progress)
        if jobs:
            _probe_all(jobs, plan, progress)


def _total_images(cell: CellConfig) -> int:
    return sum(num_images(cell).values()) * len(cell.steps)


def _key(job: Job) -> Key:
    return job[0].cell_id, f"probe {job[1].task_name}"


def _measure_images(cell: CellConfig, plan: Plan, progress: GridProgress) -> None:
    import pyarrow.parquet as pq

    from soarbench.diagnostics.image_table import image_table

    folder = CellFolder(plan.cell_folder(cell))
    title = f"{cell.label}: image statistics"
    with progress.stage((cell.cell_id, "images"), title, _total_images(cell)) as stage:
        table = image_table(cell, folder, stage.advance)
    write_atomically(images_path(folder.root), lambda partial: pq.write_table(table, partial))


def _probe_all(jobs: Sequence[Job], plan: Plan, progress: GridProgress) -> None:
    from soarbench.diagnostics.probes import probe
    from soarbench.workbench import Workbench

    bench = Workbench(plan.settings.device, plan.cache_dir)
    for cell, source in jobs:
        folder = CellFolder(plan.cell_folder(cell))
        title = f"{cell.label}: paths of {source.task_name} images"
        with progress.stage(_key((cell, source)), title, len(cell.steps)) as stage:
            for _ in probe(cell, source, folder, bench):
                stage.advance()
