"""The job that trains a cell's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.loop.checkpoints import last_complete_checkpoint
from soarbench.common.code import code_of
from soarbench.common.files import write_json
from soarbench.config.run import RatesConfig
from soarbench.config.stages import stages
from soarbench.grid import addresses
from soarbench.grid.addresses import Source
from soarbench.jobs.base import Context, Job
from soarbench.store.artefact import Store
from soarbench.store.training import TrainingFolder, write_training_table


@dataclass(frozen=True, kw_only=True)
class Train(Job):
    """Trains to the end, from the last checkpoint on."""

    kind: ClassVar[str] = "train"

    @property
    def source(self) -> Source:
        """The training."""
        source = addresses.training(self.cell)
        assert source is not None, "the base model is not trained"
        return source

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.cell.label}: train"

    @property
    def code(self) -> tuple[str, ...]:
        """The method's own modules, those of its rewards, and a user's reward function."""
        return code_of(self.cell.method, *self.cell.judges.values(), *self.cell.rewards)

    def is_done(self, store: Store) -> bool:
        """Whether training is over."""
        return TrainingFolder(store.artefact(self.address).root).is_whole

    def seconds(self, store: Store, rates: RatesConfig) -> float:
        """Of the steps that are left."""
        assert self.cell.training is not None
        if self.is_done(store):
            return 0.0
        method = stages(self.cell.method_name)[-1]
        checkpoint = last_complete_checkpoint(store.artefact(self.address).root)
        done = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        return (self.cell.training.steps - done) * rates.seconds_per_step.get(method, 0.0)

    def run(self, context: Context) -> None:
        """Train, and keep what it logged and cost."""
        assert self.cell.training is not None
        with self.begun(context, self.cell.training.steps) as (artefact, stage):
            folder = TrainingFolder(artefact.root)
            if folder.is_whole:
                return
            checkpoint = last_complete_checkpoint(folder.root)
            if checkpoint is not None:
                stage.skip(int(checkpoint.name.rpartition("-")[2]))
            cost = context.workbench.train(self.cell, stage.reach)
            write_json(folder.cost_path, dict(cost))
            write_training_table(folder)
            folder.remove_checkpoints()
