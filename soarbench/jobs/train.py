"""The job that trains a cell's weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from baselines.loop.checkpoints import MANIFEST, snapshot_damage
from baselines.loop.owner import Owner, TakenOver
from soarbench.common.code import code_of
from soarbench.common.errors import UserError
from soarbench.config.run import RatesConfig
from soarbench.config.stages import stages
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.jobs.base import Context, Job, Needs, extent_of
from soarbench.store.artefact import Store
from soarbench.store.training import TrainingFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Train(Job):
    """Trains to the end, from the last checkpoint on.

    Attributes:
        num_processes: That train together; the launcher says how many.
        sharing: Other cells of the grid whose weights these are, too: of another task.
    """

    kind: ClassVar[str] = "train"
    num_processes: int = 1
    sharing: tuple[CellConfig, ...] = ()

    @property
    def source(self) -> addresses.Source:
        """The training."""
        source = addresses.training(self.cell)
        assert source is not None, "the base model is not trained"
        return source

    def needs(self) -> Needs:
        """A GPU for each process."""
        return Needs(gpus=self.num_processes, loads=addresses.base_loads(self.cell))

    def is_done(self, store: Store) -> bool:
        """Whether training is over."""
        folder = TrainingFolder(store.artefact(self.address).root)
        # Killed between its end and their removal, 40 GB would stay for ever.
        is_tidy = folder.is_whole and not any(folder.root.glob("checkpoint-*"))
        return is_tidy and not self.lacking(store)

    def lacking(self, store: Store) -> list[int]:
        """Of a training that is over: steps that it is repeated for.

        Those without a snapshot whose images are still to be drawn, as another grid may have
        trained it, with other costs to be compared at; and those whose snapshot somebody needed,
        and found damaged or removed.
        """
        folder = TrainingFolder(store.artefact(self.address).root)
        if not folder.was_whole:
            return []
        gone = (step for step in self.cell.steps if not folder.snapshot(step).is_dir())
        lacking = {step for step in gone if not self._is_drawn(step, store)}
        # Who finds a fault removes the table.
        faulty = [] if folder.is_whole else folder.faulty(self.cell.steps)
        return sorted(lacking.union(faulty))

    def _is_drawn(self, step: int, store: Store) -> bool:
        return all(
            store.artefact(addresses.images(cell, step, suite).address).covers(extent_of(suite))
            for cell in (self.cell, *self.sharing)
            for suite in (cell.suites.values() if step in cell.steps else ())
        )

    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        assert self.cell.training is not None
        # A second stage is as fast as that method, or variant, is anywhere.
        method = stages(self.cell.method_name)[-1]
        steps = self.cell.training.steps - _steps_done(store.artefact(self.address).root)
        return steps * rates.step_seconds(method, self.cell.task_name)

    def run(self, context: Context) -> None:
        """Train, and keep what it logged and cost."""
        assert self.cell.training is not None
        # The method's own modules, those of its rewards, and a user's reward function.
        code = code_of(self.cell.method, *self.cell.judges.values(), *self.cell.rewards)
        with self.begun(context, "train", self.cell.training.steps, code) as (artefact, stage):
            folder = TrainingFolder(artefact.root)
            if self._is_over(folder, context.store):
                return
            for parent in self.cell.lineage:
                trained_folder(context.store, parent).require_snapshot(parent.steps[-1])
            stage.skip(_steps_done(folder.root))
            owner = Owner.claim(folder.root)
            try:
                cost = context.workbench.train(self.cell, stage.reach)
                owner.check()
            except TakenOver:
                # A node that comes back late: who took over has brought it to its end.
                if folder.is_whole:
                    return
                raise
            # Snapshots of two trainings must not pass for those of one.
            if not folder.is_as_before(self.cell.steps[-1]):
                raise UserError(
                    f"{self.cell.label} was trained again for snapshots that it lacked, and came "
                    "to other weights than the first time (another machine or version?); what was "
                    "there is kept. Choose another output_dir, or leave these snapshots out: "
                    "budget.cost_shares=[] budget.costs=[]"
                )
            # A kill before its end goes on from a checkpoint.
            folder.finish(cost)

    def _is_over(self, folder: TrainingFolder, store: Store) -> bool:
        """Whether nothing is left to train; one that lacks snapshots begins again."""
        lacking = self.lacking(store)
        # Another process may have finished it while this one waited for the lock.
        if folder.is_whole and not lacking:
            folder.remove_checkpoints()
            return True
        for snapshot in map(folder.snapshot, lacking):
            fault = snapshot_damage(snapshot)
            log.warning("%s %s: %s is trained again", snapshot, fault, self.cell.label)
        if lacking:
            folder.begin_again(lacking, self.cell.steps[-1])
        return folder.was_whole and self._is_mended(folder)

    def _is_mended(self, folder: TrainingFolder) -> bool:
        """Whether all that a finished training lacks is its table, which is made again."""
        fault = folder.fault(self.cell.steps)
        if fault is None:
            folder.write_table()
        else:
            log.warning("%s: %s is trained again", fault, self.cell.label)
        return fault is None


def trained_folder(store: Store, cell: CellConfig) -> TrainingFolder:
    """Where a cell's training lies."""
    return TrainingFolder(store.artefact(Train(cell=cell).address).root)


def require_weights(store: Store, cell: CellConfig, step: int) -> None:
    """Make sure that the weights of a step can be loaded; ``Damaged`` names the training."""
    for stage in cell.lineage:
        trained_folder(store, stage).require_snapshot(stage.steps[-1])
    if step > 0:
        trained_folder(store, cell).require_snapshot(step)


def _steps_done(root: Path) -> int:
    """Of the last checkpoint."""
    # Only looks: ``last_complete_checkpoint`` removes unfinished ones, and a dry run would take a
    # running training its half-written checkpoint.
    marks = root.glob(f"checkpoint-*/{MANIFEST}")
    return max((int(mark.parent.name.rpartition("-")[2]) for mark in marks), default=0)
