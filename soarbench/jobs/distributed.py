"""Cells that several processes of this machine train together, one GPU each.

``python -m soarbench.jobs.distributed CELL key=value`` is one of them, under torch's launcher.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from baselines.loop.owner import OWNER_VARIABLE, Owner
from baselines.loop.sharding import end_process
from soarbench.common.errors import UserError
from soarbench.common.files import write_record
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import OnStep
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.models.devices import torch_device
from soarbench.store.training import TrainingFolder, read_training_log

#: Tells workers whose they are: one whose launch is gone stops.
LAUNCH_PID = "SOARBENCH_LAUNCH_PID"
_SECONDS_BETWEEN_LOOKS = 1.0
_ERROR_LINE = re.compile(
    r"(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Diverged|TakenOver|Exception): .*)"
)


class TrainingFailed(RuntimeError):
    """A process that trained a cell ended badly."""


class LaunchGone(RuntimeError):
    """The launch that wanted this training was killed."""


def check_gpus(device: torch.device, name: str, num_processes: int) -> None:
    """Refuse more processes than there are GPUs, or a single GPU for several."""
    if device.type != "cuda":
        return
    if name not in ("auto", "cuda"):
        raise UserError(
            f"device={name}: one GPU for launcher.num_processes={num_processes}; use device=auto"
        )
    count = torch.cuda.device_count()
    if num_processes > count:
        raise UserError(
            f"launcher.num_processes={num_processes}: this machine has {count} CUDA devices; use "
            f"launcher.num_processes={count}"
        )


class DistributedWorkbench(ModelWorkbench):
    """A workbench whose training runs in processes of its own; the rest stays in this one."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid.settings.device, grid.store, grid.settings.launcher)
        # Each process makes the grid again from its command line.
        self.grid = grid
        check_gpus(self.device, grid.settings.device, self.processes.count)

    def train(self, cell: CellConfig, on_step: OnStep) -> dict[str, float]:
        """Train a cell to its end in several processes, from its last checkpoint on; what it cost.

        ``TrainingFailed`` where a process ended badly; says why.
        """
        folder = self.training_folder(cell)
        # The processes need all of the GPUs, this one's among them.
        self.let_go()
        log_path = folder.root / "processes.log"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        worker = ["-m", "soarbench.jobs.distributed", addresses.cell_id(cell), *self.grid.arguments]
        with log_path.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *launch, str(self.processes.count), *worker],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ
                | {LAUNCH_PID: str(os.getpid()), OWNER_VARIABLE: Owner.current(folder.root).token},
            )
            try:
                self._follow(process, folder, on_step)
            finally:
                # After Ctrl-C they would train on, without anybody who counts their steps.
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if process.returncode != 0:
            raise TrainingFailed(last_error(log_path, process.returncode))
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


def last_error(log: Path, exit_code: int) -> str:
    """What the processes said last that is an error."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [match.group(1) for match in map(_ERROR_LINE.fullmatch, lines) if match]
    # The launcher of the processes ends with an error of its own, which says nothing.
    causes = [line for line in errors if "ChildFailedError" not in line]
    return f"{causes[0] if causes else f'exit code {exit_code}'} (all of it: {log})"


def main(words: Sequence[str]) -> None:
    """Train one cell together with the other processes."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
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
    workbench = ModelWorkbench(device, grid.store, together)
    cost = workbench.train(cell, stop_without_launch)
    if os.environ["RANK"] == "0":
        write_record(workbench.training_folder(cell).cost_path, cost)
    end_process()


def stop_without_launch(_step: int, _note: str) -> None:
    """End, with ``LaunchGone``, when the launch is gone."""
    # The lock of the folder was the launch's, so the same command would train the cell a second
    # time beside this process.
    try:
        os.kill(int(os.environ[LAUNCH_PID]), 0)
    except ProcessLookupError as error:
        raise LaunchGone("the launch was killed; the same command goes on from here") from error


if __name__ == "__main__":
    main(sys.argv[1:])
