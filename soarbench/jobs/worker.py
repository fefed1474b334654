"""One of the processes that train a cell: ``python -m soarbench.jobs.worker CELL key=value``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import torch

from baselines.loop.sharding import end_process
from soarbench.common.files import write_json
from soarbench.grid import addresses
from soarbench.grid.expand import expand
from soarbench.jobs.distributed import LAUNCH_PID
from soarbench.jobs.workbench import ModelWorkbench, torch_device


class LaunchGone(RuntimeError):
    """The launch that wanted this training was killed."""


def main(words: Sequence[str]) -> None:
    """Train one cell together with the other processes."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Which process this is, accelerate and the loop take from the variables of torch's launcher.
    cell_id, *arguments = words
    grid = expand(arguments)
    (cell,) = [cell for cell in grid.cells if addresses.cell_id(cell) == cell_id]
    settings = grid.settings
    workbench = ModelWorkbench(_device(settings.device), grid.store, settings.launcher)
    cost = workbench.train(cell, stop_without_launch)
    if os.environ["RANK"] == "0":
        write_json(workbench.training_folder(cell).cost_path, cost)
    end_process()


def _device(name: str) -> str:
    """This process's own GPU, where there are any."""
    if torch_device(name).type != "cuda":
        return "cpu"
    rank = int(os.environ["LOCAL_RANK"])
    # Judges that a reward asks go to the current device.
    torch.cuda.set_device(rank)
    return f"cuda:{rank}"


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
