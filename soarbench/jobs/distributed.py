"""Cells that several processes of a machine or more train together, one GPU each.

``python -m soarbench.jobs.distributed CELL key=value`` is one of them, under torch's launcher.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from typing_extensions import override

from baselines.loop.checkpoints import last_complete_checkpoint
from baselines.loop.owner import OWNER_VARIABLE, Owner
from baselines.loop.sharding import end_process
from soarbench.common.files import write_record
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import OnStep
from soarbench.jobs.torchrun import Span, end_with_launch, last_error, started
from soarbench.jobs.train import trained_folder
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.models.devices import torch_device
from soarbench.store.training import TrainingFolder, TrainingLog, read_training_log

_SECONDS_BETWEEN_LOOKS = 1.0


class TrainingFailed(RuntimeError):
    """A process that trained a cell ended badly."""


class DistributedWorkbench(ModelWorkbench):
    """A workbench whose training runs in processes of its own; the rest stays in this one."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid.settings.device, grid.store, grid.settings.launcher)
        self.grid = grid

    def train(self, cell: CellConfig, on_step: OnStep) -> dict[str, float]:
        """Train a cell to its end in several processes, from its last checkpoint on; what it cost.

        ``TrainingFailed`` where a process ended badly; says why.
        """
        folder, span = trained_folder(self.store, cell), Span.current(self.processes.count)
        # The processes need all of the GPUs, this one's among them.
        self.models.let_go()
        # Those of other nodes find it in the folder, once they have met these.
        owner = {OWNER_VARIABLE: Owner.current(folder.root).token}
        # Or steps of a run before this one would pass for done, and until they are reached again
        # the training would give no sign of life.
        TrainingLog(folder).go_back(last_complete_checkpoint(folder.root))
        with started(self.grid, cell, folder, span, owner) as process:
            self._follow(process, folder, on_step)
        if process.returncode != 0:
            raise TrainingFailed(last_error(span.logs(folder.root), process.returncode))
        return folder.cost()

    def _follow(
        self, process: subprocess.Popen[bytes], folder: TrainingFolder, on_step: OnStep
    ) -> None:
        """Pass on the steps that training logs until it ends."""
        done, is_over = 0, False
        while not is_over:
            # Asked before the log is read, so that the last steps are passed on as well.
            is_over = process.poll() is not None
            newest = max((step for step, _ in read_training_log(folder)), default=0)
            if newest > done:
                done = newest
                on_step(done, "")
            if not is_over:
                time.sleep(_SECONDS_BETWEEN_LOOKS)


class _RankWorkbench(ModelWorkbench):
    """Of one process, whose GPU may be larger than those of other nodes."""

    @override
    def _memory(self) -> float:
        smallest = Span.current(1).gpu_memory_gb
        # Bytes, exactly: all processes must choose alike.
        return min(super()._memory(), round(smallest * 1e9) or math.inf)


def main(words: Sequence[str]) -> None:
    """Train one cell together with the other processes."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    end_with_launch()
    # Which process this is, accelerate and the loop take from the variables of torch's launcher.
    cell_id, *arguments = words
    grid = expand(arguments)
    (cell,) = [cell for cell in grid.cells if addresses.cell_id(cell) == cell_id]
    settings = grid.settings
    device = "cpu"
    if torch_device(settings.device).type == "cuda":
        rank = int(os.environ["LOCAL_RANK"])
        # Judges that a reward asks go to the current device.
        torch.cuda.set_device(rank)
        device = f"cuda:{rank}"
    # A number that the launcher chose stands in no command line.
    together = replace(settings.launcher, num_processes=int(os.environ["WORLD_SIZE"]))
    workbench = _RankWorkbench(device, grid.store, together)
    cost = workbench.train(cell, lambda _step, _note: None)
    if os.environ["RANK"] == "0":
        write_record(trained_folder(workbench.store, cell).cost_path, cost)
    end_process()


if __name__ == "__main__":
    main(sys.argv[1:])
