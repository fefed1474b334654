"""The jobs of a grid, in the order in which one process would do them, and stale ones of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from soarbench.common.code import changed
from soarbench.common.errors import UserError
from soarbench.common.progress import Key
from soarbench.config.run import Stale
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import by_samplers, describe, followed
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Job, Shard, SuiteJob
from soarbench.jobs.diversity import Diversity
from soarbench.jobs.draw import Draw
from soarbench.jobs.judge import Judge
from soarbench.jobs.log import Log, LogDiagnostics
from soarbench.jobs.probe import ImageStatistics, Paths
from soarbench.jobs.train import Train
from soarbench.store.artefact import Store


def all_jobs(grid: Grid) -> list[Job]:
    """Every job of a grid, done or not."""
    return grid_jobs(grid.cells, diagnostics=grid.settings.diagnostics)


def grid_jobs(cells: Sequence[CellConfig], *, diagnostics: bool) -> list[Job]:
    """Every job of a grid's cells: cell by cell to its log, then what looks for signs of gaming."""
    jobs = [job for cell in cells for job in cell_jobs(cell, cells)]
    if diagnostics:
        jobs += [job for cell in cells for job in _probe_jobs(cell, cells)]
    # Cells may share what they name; the first one makes it. A part of a suite is a job of its own.
    once: dict[object, Job] = {}
    for job in jobs:
        key = job.key, getattr(job, "suite", None)
        first = once.setdefault(key, job)
        # It is to be repeated for images of any of them.
        if isinstance(first, Train) and first is not job:
            once[key] = replace(first, sharing=(*first.sharing, job.cell))
    return list(once.values())


def diagnostic_keys(jobs: Sequence[Job], cells: Sequence[CellConfig]) -> set[Key]:
    """Names of those of a grid's jobs that diagnostics added to those of the cells."""
    own = {job.key for job in grid_jobs(cells, diagnostics=False)}
    return {job.key for job in jobs} - own


def cell_jobs(cell: CellConfig, cells: Sequence[CellConfig]) -> list[Job]:
    """From training to the log."""
    training, drawing, judging = _made_jobs(cell)
    logged = tuple(job.address for job in (*training, *judging))
    log = Log(cell=cell, description=describe(cell, cells), parts=logged)
    return [*training, *drawing, *judging, log]


def _made_jobs(cell: CellConfig) -> tuple[Sequence[Job], Sequence[Job], Sequence[Job]]:
    """What trains, draws and judges."""
    training = [] if cell.training is None else [Train(cell=cell)]
    parts = list(itertools.product(cell.steps, cell.suites.values()))
    # All suites of a step follow each other, and are drawn with weights that are loaded once.
    drawing = [Draw(cell=cell, step=step, suite=suite) for step, suite in parts]
    judging = [
        Judge(cell=cell, step=step, suite=suite, judge=judge)
        for step, suite in parts
        for judge in suite.judges
    ]
    return training, drawing, judging


def maker_of(address: str, job: Job) -> Job | None:
    """The job that makes an artefact which another job reads; None where it reads no such one."""
    if isinstance(job, Paths) and job.states.address == address:
        return job.states
    cells = (*job.cell.lineage, job.cell)
    made = itertools.chain.from_iterable(kind for cell in cells for kind in _made_jobs(cell))
    suite = getattr(job, "suite", None)
    # Of two parts of a suite, which share an artefact, the one that is asked for.
    makers = sorted(
        (one for one in made if one.address == address),
        key=lambda one: getattr(one, "suite", None) != suite,
    )
    return next(iter(makers), None)


def _probe_jobs(cell: CellConfig, cells: Sequence[CellConfig]) -> list[Job]:
    parts = itertools.product(cell.steps, cell.suites.values())
    statistics = [ImageStatistics(cell=cell, step=step, suite=suite) for step, suite in parts]
    diversity = [
        Diversity(cell=cell, step=step, suite=suite, measure=measure)
        for step, suite in itertools.product(cell.steps, cell.suites.values())
        for measure in cell.measures(suite)
    ]
    paths = [Paths(cell=cell, data_of=source) for source in followed(cell, cells)]
    states = [one.states for one in paths]
    drawing, judging = _by_other_samplers(cell, cells)
    probes: list[Job] = [*statistics, *diversity, *states, *paths, *drawing, *judging]
    logged = tuple(job.address for job in (*statistics, *diversity, *paths, *judging))
    log = LogDiagnostics(cell=cell, description=describe(cell, cells), parts=logged)
    return [*probes, log]


def _by_other_samplers(
    cell: CellConfig, cells: Sequence[CellConfig]
) -> tuple[Sequence[Job], Sequence[Job]]:
    """What draws and judges the last step's images by the cell's other samplers."""
    step = cell.steps[-1]
    # The first one's sampler is the cell's own, whose images are made anyway.
    others = by_samplers(cell, cells)[1:]
    drawing = [
        Draw(cell=one, step=step, suite=suite) for one in others for suite in one.suites.values()
    ]
    judging = [
        Judge(cell=one.cell, step=step, suite=one.suite, judge=judge)
        for one in drawing
        for judge in one.suite.judges
    ]
    return drawing, judging


def sharded(
    jobs: Sequence[Job], seconds: Mapping[Key, float], shard_seconds: float
) -> dict[Key, list[Job]]:
    """Jobs by key, those on images cut in shards of about ``shard_seconds``."""
    shards: dict[Key, list[Job]] = {}
    for job in jobs:
        count = round(seconds.get(job.key, 0.0) / shard_seconds)
        parts = min(count, job.num_batches) if isinstance(job, SuiteJob) else 1
        if parts > 1:
            assert isinstance(job, SuiteJob)
            cut = [replace(job, shard=Shard(index=i, count=parts)) for i in range(parts)]
            shards.setdefault(job.key, []).extend(cut)
        else:
            shards.setdefault(job.key, []).append(job)
    return shards


def waiting_on(job: Job, jobs: Sequence[Job]) -> list[str]:
    """Addresses that a job waits for and that a job of the list makes."""
    planned = {other.address for other in jobs if other is not job}
    return [address for address in job.waits_for if address in planned]


def settle(jobs: Sequence[Job], store: Store, choice: Stale) -> list[str]:
    """Do with stale artefacts as ``stale=`` says. -> Lines to be shown.

    ``UserError`` where there are some, and ``refuse`` was chosen.
    """
    # Finished cells of other code were reused without a word: one seed of a mean was trained with
    # a loss a hundred times the other's.
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for job in jobs:
        record = store.artefact(job.address).record()
        if record is not None and (modules := changed(record.code)):
            groups.setdefault((job.kind, tuple(modules)), []).append(job.address)
    lines = [
        f"{len(addresses)} results of {kind!r} were made by other code of {', '.join(modules)} "
        f"than today's, e.g. {addresses[0]}"
        for (kind, modules), addresses in groups.items()
    ]
    if lines and choice == "refuse":
        raise UserError(
            f"{lines[0]}; stale=rerun makes them again, stale=warn takes them as they are"
        )
    if lines and choice == "rerun":
        stale = (address for addresses in groups.values() for address in addresses)
        # What was made from them goes, too.
        gone = {address for one in stale for address in store.discard(one)}
        return [f"{line}; made again" for line in lines] + [f"{len(gone)} artefacts were removed"]
    return [f"{line}; stale=rerun makes them again" for line in lines]
