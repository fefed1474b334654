"""A launcher whose jobs run on workers, wherever those are."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from typing_extensions import override

from soarbench.common.errors import UserError
from soarbench.common.progress import Key
from soarbench.config.run import LauncherConfig
from soarbench.jobs.base import Context, Job
from soarbench.jobs.graph import maker_of, sharded
from soarbench.jobs.prepare import Prepare
from soarbench.jobs.train import Train
from soarbench.launchers.backend import Backend
from soarbench.launchers.base import Launch, Launcher, Outcome
from soarbench.launchers.engine import Engine, Patience, WorkerLost
from soarbench.launchers.gangs import choose_and_keep
from soarbench.store.artefact import Store

OpenBackend = Callable[[Launch], contextlib.AbstractContextManager[Backend]]


class Pool(Launcher):
    """Runs jobs on the workers of a backend, which is there while the launcher is open."""

    def __init__(self, config: LauncherConfig, open_backend: OpenBackend) -> None:
        self._config, self._open_backend = config, open_backend
        self._stack = contextlib.ExitStack()

    @override
    def open(self, launch: Launch, jobs: Sequence[Job]) -> None:
        config, self._launch = self._config, launch
        backend = self._stack.enter_context(self._open_backend(launch))
        patience = Patience(
            retries=config.retries,
            stall_minutes=config.stall_minutes,
            start_minutes=config.start_minutes,
        )
        self._num_gpus = sum(node.gpus for node in backend.nodes())
        self._engine = Engine(backend, launch.progress, patience)
        if jobs:
            prepare = Prepare(cell=jobs[0].cell, jobs=tuple(jobs))
            for _, failure in self._engine.run([prepare], launch.seconds, _nobody):
                if isinstance(failure, WorkerLost):
                    raise UserError(f"loading models and judges: {failure}") from failure
                if failure is not None:
                    raise failure

    @override
    def run(self, jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
        def here(job: Job) -> None:
            job.run(context)

        whole, estimates = self._with_processes(jobs, context.store)
        shards = sharded(whole, estimates, 60 * self._config.shard_minutes)
        seconds = {
            job.key: estimates.get(key, 0.0) / len(parts)
            for key, parts in shards.items()
            for job in parts
        }
        self._launch.progress.estimate(seconds)

        def maker(address: str, job: Job) -> Job | None:
            made = maker_of(address, job)
            return None if made is None else self._with_processes([made], context.store)[0][0]

        parts = list(itertools.chain(*shards.values()))
        yield from self._engine.run(parts, seconds, here, maker)

    def _with_processes(
        self, jobs: Sequence[Job], store: Store
    ) -> tuple[list[Job], Mapping[Key, float]]:
        """Jobs that know how many processes train together, and how long they take then."""
        trainings = [job for job in jobs if isinstance(job, Train)]
        counts = {job.address: self._config.count for job in trainings}
        # What is made again was done, and has no estimate.
        seconds = dict.fromkeys((job.key for job in trainings), 0.0) | dict(self._launch.seconds)
        if self._config.num_processes is None:
            counts = choose_and_keep(trainings, seconds, store, self._num_gpus)
            # So far they were of one process.
            seconds |= {job.key: seconds[job.key] / counts[job.address] for job in trainings}
        return [
            replace(job, num_processes=counts[job.address]) if isinstance(job, Train) else job
            for job in jobs
        ], seconds

    @override
    def close(self) -> None:
        self._stack.close()


def _nobody(job: Job) -> None:
    raise AssertionError(f"{job.kind} is no job of this process")
