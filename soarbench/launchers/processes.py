"""Cells that several processes of this machine train together, one GPU each."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from soarbench.common.errors import UserError
from soarbench.common.files import read_json
from soarbench.config.settings import CellConfig
from soarbench.grid.expand import Plan
from soarbench.jobs.workbench import OnStep, Workbench
from soarbench.store.cell_folder import CellFolder, read_training_log

#: Tells workers whose they are: one whose launch is gone stops.
LAUNCH_PID = "SOARBENCH_LAUNCH_PID"
_SECONDS_BETWEEN_LOOKS = 1.0
_ERROR_LINE = re.compile(r"(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Diverged|Exception): .*)")


class TrainingFailed(RuntimeError):
    """A process that trained a cell ended badly."""


def check_gpus(device: torch.device, name: str, num_processes: int) -> None:
    """Refuse more processes than there are GPUs, or a single GPU for several.

    Raises:
        UserError: Names the value and what there is.
    """
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


class ParallelWorkbench(Workbench):
    """A workbench whose training runs in processes of its own; the rest stays in this one.

    Args:
        plan: Says how many processes, and is what each of them makes again.

    Raises:
        UserError: There are not as many GPUs.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.settings.device, plan.cache_dir, plan.settings.launcher)
        self.plan = plan
        self.num_processes = plan.settings.launcher.num_processes
        check_gpus(self.device, plan.settings.device, self.num_processes)

    def train(self, cell: CellConfig, folder: CellFolder, on_step: OnStep) -> dict[str, float]:
        """Train a cell to its end in several processes, from its last checkpoint on.

        Returns:
            What it cost.

        Raises:
            TrainingFailed: A process ended badly; says why.
        """
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log_path = folder.root / "processes.log"
        with log_path.open("w") as log:
            process = subprocess.Popen(
                self._command(cell),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {LAUNCH_PID: str(os.getpid())},
            )
            try:
                self._follow(process, folder, on_step)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if process.returncode != 0:
            raise TrainingFailed(last_error(log_path, process.returncode))
        budget = read_json(folder.budget_path)
        return {name: float(str(value)) for name, value in budget.items()}

    def _command(self, cell: CellConfig) -> list[str]:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        worker = ["-m", "soarbench.launchers.worker", cell.cell_id, *self.plan.arguments]
        return [sys.executable, *launch, str(self.num_processes), *worker]

    def _follow(
        self, process: subprocess.Popen[bytes], folder: CellFolder, on_step: OnStep
    ) -> None:
        """Pass on the steps that training logs until it ends."""
        done = 0
        while True:
            is_over = process.poll() is not None
            steps = [step for step, _ in read_training_log(folder)]
            if steps and max(steps) > done:
                done = max(steps)
                on_step(done, "")
            if is_over:
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def last_error(log: Path, exit_code: int) -> str:
    """What the processes said last that is an error."""
    lines = log.read_text(errors="replace").splitlines()
    found = [match.group(1) for match in map(_ERROR_LINE.fullmatch, lines) if match]
    # The launcher of the processes ends with an error of its own, which says nothing.
    told = [line for line in found if "ChildFailedError" not in line]
    return f"{told[0] if told else f'exit code {exit_code}'} (all of it: {log})"
