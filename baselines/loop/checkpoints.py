"""Checkpoints and snapshots on disk, written so that a kill at any moment leaves a usable one.

Layout of a training folder::

    checkpoint-200/     what resuming needs; valid only with the COMPLETE mark
        transformer/    diffusers' or peft's own directory
        optimizer.pt scheduler.pt rng_state*.pth trainer_state.json counters.json ema.pt
    snapshots/step-000050/    weights to be evaluated, diffusers' or peft's own directory
"""

# Imports no framework: the orchestrator asks these questions before it loads a model.
from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPLETE = "COMPLETE"
EMA_FILE = "ema.pt"
COUNTERS_FILE = "counters.json"
TRANSFORMER_DIR = "transformer"

log = logging.getLogger(__name__)


@dataclass
class Counters:
    """What training has cost so far, over all processes and all resumptions.

    Attributes:
        images_seen: Rows trained on; Flow-GRPO's are images that it generated.
        forward_equivalents: Model evaluations of one row; a backward counts as two.
        reward_calls: Images scored by the reward.
        seconds: Wall-clock time spent in the loop.
    """

    images_seen: int = 0
    forward_equivalents: float = 0.0
    reward_calls: int = 0
    seconds: float = 0.0


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the Trainer keeps the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def snapshot_path(folder: Path, step: int) -> Path:
    """Where the weights to be evaluated after ``step`` updates are kept."""
    return folder / "snapshots" / f"step-{step:06d}"


def mark_complete(checkpoint: Path) -> None:
    """Declare a checkpoint finished, whose every file is written, then drop the older ones."""
    # In this order: a kill between the two leaves one checkpoint too many, never none.
    (checkpoint / COMPLETE).touch()
    for older in _checkpoints(checkpoint.parent)[0][:-1]:
        # The mark goes first, so that a half-removed checkpoint does not pass for a whole one.
        (older / COMPLETE).unlink()
        shutil.rmtree(older)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest finished checkpoint; half-written ones (a killed process) are removed."""
    finished, unfinished = _checkpoints(folder)
    for path in unfinished:
        log.warning("removing the unfinished checkpoint %s", path)
        shutil.rmtree(path)
    return finished[-1] if finished else None


def _checkpoints(folder: Path) -> tuple[list[Path], list[Path]]:
    """Finished checkpoints, ascending by step, and unfinished ones."""
    numbered = [
        (int(match[1]), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    ascending = [path for _, path in sorted(numbered)]
    finished = [path for path in ascending if (path / COMPLETE).exists()]
    return finished, [path for path in ascending if path not in finished]


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Write into the yielded directory; ``target`` appears, whole, when the block ends well."""
    partial = target.with_name(f".{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)  # of a killed process
    partial.mkdir(parents=True)
    yield partial
    partial.rename(target)
