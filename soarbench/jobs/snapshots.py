"""Snapshots that nothing needs any more: a full fine-tune's take 5 to 9 GB each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from soarbench.common.errors import UserError
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


def refuse_repetition(jobs: Iterable[Job], store: Store) -> None:
    """``UserError`` where a training that is over would be repeated, for snapshots that it lacks.

    To be asked on a GPU: few of its kernels give the same bits twice, and a repetition that comes
    to other weights is thrown away when it is over.
    """
    for job in jobs:
        training = job.cell.training
        if training is None or training.deterministic:
            continue
        if steps := _repeated_for(job, store):
            remedy = (
                "them unmeasured (diagnostics=false)"
                if isinstance(job, Paths)
                else "these snapshots out (budget.cost_shares=[] budget.costs=[])"
            )
            raise UserError(
                f"{job.cell.label} is over, and has no whole snapshot of step "
                f"{', '.join(map(str, steps))}; a GPU that trains it again would hardly come to "
                f"the same weights without training.deterministic=true. Leave {remedy}, or choose "
                "another output_dir"
            )


def _repeated_for(job: Job, store: Store) -> list[int]:
    """Steps that a training which is over would be repeated for."""
    if isinstance(job, Train):
        return job.lacking(store)
    # Images of removed snapshots were drawn; only these measure weights afterwards.
    folder = trained_folder(store, job.cell)
    if not isinstance(job, Paths) or not folder.was_whole:
        return []
    return [step for _, step in _read_by(job) if not folder.snapshot(step).is_dir()]
