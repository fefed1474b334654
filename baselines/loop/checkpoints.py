"""Checkpoints and snapshots on disk, written so that a kill at any moment leaves a usable one.

Imports no framework: the orchestrator asks these questions before it loads a model.

Layout of a training folder::

    checkpoint-200/     what resuming needs; valid only with the COMPLETE mark
        transformer/    diffusers' or peft's own directory
        optimizer.pt scheduler.pt rng_state*.pth trainer_state.json counters.json ema.pt
    snapshots/step-000050/    weights to be evaluated, diffusers' or peft's own directory
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

COMPLETE = "COMPLETE"
EMA_FILE = "ema.pt"
COUNTERS_FILE = "counters.json"
TRANSFORMER_DIR = "transformer"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SNAPSHOT = re.compile(r"step-(\d+)")

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

    def save(self, checkpoint: Path) -> None:
        """Write into a checkpoint."""
        (checkpoint / COUNTERS_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> Counters:
        """Read from a checkpoint."""
        return cls(**json.loads((checkpoint / COUNTERS_FILE).read_text(encoding="utf-8")))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the Trainer keeps the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def snapshot_path(folder: Path, step: int) -> Path:
    """Where the weights to be evaluated after ``step`` updates are kept."""
    return folder / "snapshots" / f"step-{step:06d}"


def finished_snapshots(folder: Path) -> dict[int, Path]:
    """Snapshots by step, ascending. They appear by a rename, so each one found is whole."""
    by_step = _numbered(folder / "snapshots", _SNAPSHOT)
    return dict(sorted(by_step.items()))


def mark_complete(checkpoint: Path, *, keep: int | None = 1) -> None:
    """Declare a checkpoint finished, then drop the older ones.

    Removing comes after marking: a kill between the two leaves one checkpoint too many, never none.

    Args:
        checkpoint: A checkpoint whose every file is written.
        keep: Finished checkpoints that stay, this one included; None keeps all.
    """
    (checkpoint / COMPLETE).touch()
    if keep is None:
        return
    finished = {
        step: path
        for step, path in _numbered(checkpoint.parent, _CHECKPOINT).items()
        if (path / COMPLETE).exists()
    }
    for step in sorted(finished)[:-keep]:
        (finished[step] / COMPLETE).unlink()
        shutil.rmtree(finished[step])


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest finished checkpoint; half-written ones (a killed process) are removed."""
    checkpoints: dict[int, Path] = {}
    for step, path in _numbered(folder, _CHECKPOINT).items():
        if (path / COMPLETE).exists():
            checkpoints[step] = path
        else:
            log.warning("removing the unfinished checkpoint %s", path)
            shutil.rmtree(path)
    return checkpoints[max(checkpoints)] if checkpoints else None


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Write into the yielded directory; ``target`` appears, whole, when the block ends well."""
    partial = target.with_name(f".{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(target)


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """Directories whose whole name matches, by their number."""
    if not folder.is_dir():
        return {}
    matches = ((pattern.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return {int(match.group(1)): path for match, path in matches if match}
