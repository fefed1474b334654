"""Whether what a grid writes fits on the disk, before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from soarbench.common.errors import UserError
from soarbench.evaluation.selection import suite_prompts
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Job
from soarbench.jobs.draw import Draw
from soarbench.jobs.train import Train
from soarbench.launchers.local import LocalConfig
from soarbench.planning import disk
from soarbench.store.artefact import Store

_REMEDY = (
    "use store.keep_snapshots=last or fewer of them (budget.num_snapshots), "
    "training.keep_checkpoints=1, free some space, or choose another disk by output_dir"
)


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """Bytes that a grid still writes, by what they are, and what of it cannot be told yet."""

    sizes: dict[str, float]
    unknown: tuple[str, ...]

    @property
    def total(self) -> float:
        """At the peak: checkpoints go when a training is over."""
        return sum(self.sizes.values())

    def __str__(self) -> str:
        parts = [f"{name} {decimal(int(size))}" for name, size in self.sizes.items()]
        parts += [f"{name} not estimated" for name in self.unknown]
        return f"{decimal(int(self.total))} ({', '.join(parts)})"


def require_space(grid: Grid, pending: Sequence[Job]) -> None:
    """``UserError`` where the disk of ``output_dir`` has less free than the jobs write."""
    need, free = disk_need(grid, pending), shutil.disk_usage(grid.store.root).free
    if need.total > free:
        raise UserError(
            f"output_dir={grid.store.root}: needs {need} and {decimal(free)} are free: {_REMEDY}"
        )


def space_line(grid: Grid, pending: Sequence[Job]) -> str:
    """For ``--dry-run``."""
    # The folder may not be there yet, and a dry run makes none.
    there = next(path for path in (grid.store.root, *grid.store.root.absolute().parents)
                 if path.is_dir())  # fmt: skip
    free = shutil.disk_usage(there).free
    return f"disk: {disk_need(grid, pending)} of {decimal(free)} free"


def disk_need(grid: Grid, pending: Sequence[Job]) -> DiskNeed:
    """What jobs that are not done still write, without what is there of it."""
    trained = [job for job in pending if isinstance(job, Train)]
    drawn = [job for job in pending if isinstance(job, Draw)]
    launcher = grid.settings.launcher
    # How many train at once only a launcher that runs can tell; one does.
    workers = (launcher.workers or 1) if isinstance(launcher, LocalConfig) else 1
    snapshots, checkpoints = _trainings(trained, grid, workers)
    caches = _caches([job.cell for job in [*trained, *drawn]], grid.store)
    images = sum(
        _left(disk.images_bytes(job.cell, job.suite), grid.store.artefact(job.address).root)
        for job in drawn
    )
    sizes = {
        "snapshots": snapshots, "checkpoints": checkpoints, "images": images, "caches": caches,
    }  # fmt: skip
    return DiskNeed(
        sizes={name: size for name, size in sizes.items() if size is not None},
        unknown=tuple(name for name, size in sizes.items() if size is None),
    )


def _trainings(
    jobs: Sequence[Train], grid: Grid, workers: int
) -> tuple[float | None, float | None]:
    """Snapshots of all, and what those that train at once take beside; None: not known."""
    total, peaks = 0.0, []
    keeps_last = grid.settings.store.keep_snapshots == "last"
    for job in jobs:
        sizes = disk.training_bytes(job.cell, keeps_last=keeps_last)
        if sizes is None:
            return None, None
        kept, peak = sizes
        root = grid.store.artefact(job.address).root
        total += _left(kept, root / "snapshots")
        peaks.append(_left(kept + peak, root) - _left(kept, root / "snapshots"))
    return total, sum(sorted(peaks)[-workers:])


def _caches(cells: Sequence[CellConfig], store: Store) -> float | None:
    """Encoded prompts and images that the cells share."""
    latents = {repr((c.weights_digest, c.data)): disk.latents_bytes(c) for c in cells if c.data}
    drawn = {cell.model: cell for cell in cells}
    read = {cell.trained_model: cell for cell in cells}
    prompts = [disk.prompts_bytes(cell, model, _num_drawn(cells)) for model, cell in drawn.items()]
    prompts += [disk.prompts_bytes(cell, model, _num_rows(cells)) for model, cell in read.items()]
    sizes = [*latents.values(), *prompts]
    if any(size is None for size in sizes):
        return None
    return _left(sum(size for size in sizes if size is not None), store.cache_dir)


def _num_drawn(cells: Sequence[CellConfig]) -> int:
    suites = {suite.name: suite for cell in cells for suite in cell.suites.values()}
    return sum(len(suite_prompts(s).items) for s in suites.values())


def _num_rows(cells: Sequence[CellConfig]) -> int:
    rows = {repr(cell.data): cell.data.most_rows or 0 for cell in cells if cell.data is not None}
    return sum(rows.values())


def _left(size: float, folder: Path) -> float:
    """Bytes that are not in a folder yet."""
    return max(0.0, size - sum(_file_sizes(folder)))


def _file_sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            yield path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # another grid in the same store has just removed it
            yield 0
