"""The job that trains a cell's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from baselines.loop.checkpoints import COMPLETE
from soarbench.common.code import code_of
from soarbench.common.files import write_json
from soarbench.config.run import RatesConfig
from soarbench.config.stages import stages
from soarbench.grid import addresses
from soarbench.jobs.base import Context, Job, Needs
from soarbench.store.artefact import Store
from soarbench.store.training import TrainingFolder, write_training_table


@dataclass(frozen=True, kw_only=True)
class Train(Job):
    """Trains to the end, from the last checkpoint on."""

    kind: ClassVar[str] = "train"

    @property
    def source(self) -> addresses.Source:
        """The training."""
        source = addresses.training(self.cell)
        assert source is not None, "the base model is not trained"
        return source

    def needs(self) -> Needs:
        """A GPU; the launcher multiplies it by the processes that train together."""
        return Needs(gpus=1, loads=addresses.base_loads(self.cell))

    def is_done(self, store: Store) -> bool:
        """Whether training is over."""
        return TrainingFolder(store.artefact(self.address).root).is_whole

    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        assert self.cell.training is not None
        # A second stage is as fast as that method is anywhere.
        method = stages(self.cell.method_name)[-1]
        steps = self.cell.training.steps - _steps_done(store.artefact(self.address).root)
        return steps * rates.seconds_per_step.get(method, 0.0)

    def run(self, context: Context) -> None:
        """Train, and keep what it logged and cost."""
        assert self.cell.training is not None
        # The method's own modules, those of its rewards, and a user's reward function.
        code = code_of(self.cell.method, *self.cell.judges.values(), *self.cell.rewards)
        with self.begun(context, "train", self.cell.training.steps, code) as (artefact, stage):
            folder = TrainingFolder(artefact.root)
            # Another process may have finished it while this one waited for the lock.
            if folder.is_whole:
                return
            stage.skip(_steps_done(folder.root))
            cost = context.workbench.train(self.cell, stage.reach)
            write_json(folder.cost_path, dict(cost))
            # The table says that training is over; a kill before it goes on from a checkpoint.
            write_training_table(folder)
            folder.remove_checkpoints()


def _steps_done(root: Path) -> int:
    """Of the last checkpoint."""
    # Only looks: ``last_complete_checkpoint`` removes unfinished ones, and a dry run would take a
    # running training its half-written checkpoint.
    marks = root.glob(f"checkpoint-*/{COMPLETE}")
    return max((int(mark.parent.name.rpartition("-")[2]) for mark in marks), default=0)
