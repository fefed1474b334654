"""The jobs of a grid, in the order in which one process would do them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

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
    jobs = [job for cell in cells for job in cell_jobs(cell, cells)]
    if diagnostics:
        jobs += [job for cell in cells for job in _probe_jobs(cell, cells)]
    # Cells may share what they name; the first one makes it. A part of a suite is a job of its own.
    once: dict[object, Job] = {}
    for job in jobs:
        once.setdefault((job.key, getattr(job, "suite", None)), job)
    return list(once.values())


def cell_jobs(cell: CellConfig, cells: Sequence[CellConfig]) -> list[Job]:
    """From training to the log."""
    training: list[Job] = [] if cell.training is None else [Train(cell=cell)]
    parts = list(itertools.product(cell.steps, cell.suites.values()))
    # All suites of a step follow each other, and are drawn with weights that are loaded once.
    drawing = [Draw(cell=cell, step=step, suite=suite) for step, suite in parts]
    judging = [
        Judge(cell=cell, step=step, suite=suite, judge=judge)
        for step, suite in parts
        for judge in suite.judges
    ]
    logged = tuple(job.address for job in (*training, *judging))
    log = Log(cell=cell, description=describe(cell, cells), parts=logged)
    return [*training, *drawing, *judging, log]


def _probe_jobs(cell: CellConfig, cells: Sequence[CellConfig]) -> list[Job]:
    """What looks for signs of gaming, and its log."""
    parts = itertools.product(cell.steps, cell.suites.values())
    statistics = [ImageStatistics(cell=cell, step=step, suite=suite) for step, suite in parts]
    paths = [Paths(cell=cell, data_of=source) for source in followed(cell, cells)]
    logged = tuple(job.address for job in (*statistics, *paths))
    log = LogDiagnostics(cell=cell, description=describe(cell, cells), parts=logged)
    return [*statistics, *paths, log]


def waiting_on(job: Job, jobs: Sequence[Job]) -> list[str]:
    """Addresses that a job waits for and that a job of the list makes."""
    planned = {other.address for other in jobs if other is not job}
    return [address for address in job.waits_for if address in planned]
