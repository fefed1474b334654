"""Snapshots that nothing needs any more: a full fine-tune's take 5 to 9 GB each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from soarbench.config.run import KeepSnapshots
from soarbench.jobs.base import Job
from soarbench.jobs.draw import Draw
from soarbench.jobs.probe import Paths
from soarbench.jobs.train import Train, trained_folder
from soarbench.store.artefact import Store

log = logging.getLogger(__name__)
_Snapshot = tuple[str, int]


class SnapshotKeeper:
    """Removes snapshots, but a training's last one, once the jobs of a grid are done with them."""

    def __init__(self, jobs: Sequence[Job], store: Store, keep: KeepSnapshots) -> None:
        self.store = store
        # The last one may be what a further stage starts from, or somebody's ``model.adapter``.
        self._trainings = {} if keep == "all" else {j.address: j for j in jobs if type(j) is Train}
        pending = [job for job in jobs if not job.is_done(store)] if self._trainings else []
        self._needed = {_name(job): set(_read_by(job)) for job in pending}

    def ended(self, job: Job) -> None:
        """A job has ended well."""
        # A shard may not be the last one.
        if self._needed.get(_name(job)) and job.is_done(self.store):
            del self._needed[_name(job)]
            self.tidy()

    def tidy(self) -> None:
        """Remove what is not needed."""
        needed = {snapshot for read in self._needed.values() for snapshot in read}
        for address, job in self._trainings.items():
            folder = trained_folder(self.store, job.cell)
            for step in job.cell.steps[:-1] if folder.is_whole else ():
                if (address, step) not in needed and folder.snapshot(step).is_dir():
                    folder.remove_snapshot(step, "by store.keep_snapshots=last")
                    log.info("removed %s", folder.snapshot(step))


def _name(job: Job) -> object:
    # A part of a suite is a job of its own.
    return job.address, job.kind, getattr(job, "suite", None)


def _read_by(job: Job) -> Iterator[_Snapshot]:
    """The snapshots that a job reads."""
    if isinstance(job, (Draw, Paths)) and job.cell.training is not None:
        address = Train(cell=job.cell).address
        steps = (job.step,) if isinstance(job, Draw) else job.cell.own_steps
        yield from ((address, step) for step in steps)
