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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

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


class CheckpointWriter:
    """Writes and marks one checkpoint at a time, in a thread of its own if ``in_background``.

    Files that are put in hold copies of the state in host memory, of the state's size, until they
    are written: training only waits for the copies. A fault of the thread comes out of the next
    call, and where the writer is left; an interruption waits for what is being written.
    """

    def __init__(self, *, in_background: bool = False) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._files: list[Callable[[], object]] = []
        self._writing: Future[None] | None = None

    def put(self, write: Callable[[], object]) -> None:
        """Take what writes a file of the checkpoint that is coming."""
        if self._pool is None:
            write()
        else:
            self._files.append(write)

    def finish(self, checkpoint: Path) -> None:
        """Have the files written, then the checkpoint marked."""
        if self._pool is None:
            mark_complete(checkpoint)
            return
        files, self._files = self._files, []
        self._writing = self._pool.submit(_write, files, checkpoint)

    def check(self) -> None:
        """Raise the thread's fault if it is there already."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        if kind is None:
            self.wait()
        # A run that ends for another reason raises that one.
        elif self._writing is not None and (fault := self._writing.exception()):
            log.error("the last checkpoint could not be written: %s", fault)


def _write(files: list[Callable[[], object]], checkpoint: Path) -> None:
    """Write a checkpoint's files, and mark it if that went well."""
    for write in files:
        write()
    mark_complete(checkpoint)


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
