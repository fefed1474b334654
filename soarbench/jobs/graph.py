"""The jobs of a grid, in the order in which one process would do them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from soarbench.grid.cell import CellConfig
from soarbench.grid.description import describe, followed
from soarbench.jobs.base import Job
from soarbench.jobs.draw import Draw
from soarbench.jobs.judge import Judge
from soarbench.jobs.log import Log, LogDiagnostics
from soarbench.jobs.probe import ImageStatistics, Paths
from soarbench.jobs.train import Train


def grid_jobs(cells: Sequence[CellConfig], *, diagnostics: bool) -> list[Job]:
    """Every job of some cells: cell by cell to its log, then what looks for signs of gaming.

    Args:
        cells: Of a grid, a first stage before its second.
        diagnostics: Whether cells are probed, too.
    """
    measured: list[Job] = [job for cell in cells for job in cell_jobs(cell, cells)]
    probed = [job for cell in cells for job in probe_jobs(cell, cells)] if diagnostics else []
    return list(_once([*measured, *probed]))


def cell_jobs(cell: CellConfig, cells: Sequence[CellConfig]) -> list[Job]:
    """From training to the log."""
    training: list[Job] = [] if cell.training is None else [Train(cell=cell)]
    # All suites of a step are drawn with weights that are loaded once.
    drawing = [
        Draw(cell=cell, step=step, suite=suite)
        for step in cell.steps
        for suite in cell.suites.values()
    ]
    judging = [
        Judge(cell=cell, step=step, suite=suite, judge=judge)
        for step in cell.steps
        for suite in cell.suites.values()
        for judge in suite.judges
    ]
    parts = tuple(job.address for job in (*training, *judging))
    log = Log(cell=cell, description=describe(cell, cells), parts=parts)
    return [*training, *drawing, *judging, log]


def probe_jobs(cell: CellConfig, cells: Sequence[CellConfig]) -> list[Job]:
    """What looks for signs of gaming, and its log."""
    statistics = [
        ImageStatistics(cell=cell, step=step, suite=suite)
        for step in cell.steps
        for suite in cell.suites.values()
    ]
    paths = [Paths(cell=cell, data_of=source) for source in followed(cell, cells)]
    parts = tuple(job.address for job in (*statistics, *paths))
    log = LogDiagnostics(cell=cell, description=describe(cell, cells), parts=parts)
    return [*statistics, *paths, log]


def _once(jobs: Iterable[Job]) -> Iterator[Job]:
    """Each job of a kind on an artefact a single time: cells may share what they name."""
    seen: set[tuple[str, str, object]] = set()
    for job in jobs:
        key = (*job.key, getattr(job, "suite", None))
        if key not in seen:
            seen.add(key)
            yield job


def waiting_on(job: Job, jobs: Sequence[Job]) -> list[str]:
    """Addresses that a job waits for and that a job of the list makes."""
    planned = {other.address for other in jobs if other is not job}
    return [address for address in job.waits_for if address in planned]
