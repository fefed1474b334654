"""Checkpoints and snapshots on disk, written so that a kill at any moment leaves a usable one.

Layout of a training folder::

    checkpoint-200/     what resuming needs; valid only as its manifest.json says
        transformer/    diffusers' or peft's own directory
        optimizer.pt scheduler.pt rng_state*.pth trainer_state.json counters.json ema.pt
        old_policy.pt
    snapshots/step-000050/    weights to be evaluated, diffusers' or peft's own directory
    snapshots/step-000050.manifest.json
    owner.json          who trains
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

from baselines.loop.disk import (
    StorageError,
    atomic_directory,
    damage,
    flush,
    flush_tree,
    remove_partials,
    write_manifest,
    writing,
)

MANIFEST = "manifest.json"
EMA_FILE = "ema.pt"
OLD_POLICY_FILE = "old_policy.pt"
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


def snapshot_manifest(snapshot: Path) -> Path:
    """Where sizes and digests of a snapshot's files are kept."""
    # Beside it: inside, it would change what a snapshot is as somebody's ``model.adapter``.
    return snapshot.with_name(f"{snapshot.name}.{MANIFEST}")


def removal_note(snapshot: Path) -> Path:
    """Says why a snapshot is no longer there, where it was removed on purpose."""
    return snapshot.with_name(f"{snapshot.name}.removed")


def snapshot_damage(snapshot: Path) -> str | None:
    """What is wrong with a snapshot, in words that follow its name; None: nothing."""
    if not snapshot.is_dir():
        note = removal_note(snapshot)
        return f"was removed {note.read_text()}" if note.is_file() else "is missing"
    manifest = snapshot_manifest(snapshot)
    # Older versions left none.
    return damage(snapshot, manifest) if manifest.is_file() else None


@contextlib.contextmanager
def new_snapshot(snapshot: Path, allowed: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """As ``atomic_directory``, with the manifest, which is there before it."""
    with atomic_directory(snapshot, allowed) as unfinished:
        yield unfinished
        allowed()
        # After it, a process that was killed or held in between would leave a snapshot without.
        if not snapshot.is_dir():
            write_manifest(unfinished, snapshot_manifest(snapshot))
    removal_note(snapshot).unlink(missing_ok=True)


def mark_complete(
    checkpoint: Path, allowed: Callable[[], None] = lambda: None, *, keep: int = 1
) -> None:
    """Declare a checkpoint finished, whose every file is written, then drop all but ``keep``.

    ``allowed`` is asked before the mark and before anything is dropped, and may raise.
    """
    manifest = checkpoint / MANIFEST
    flush_tree(checkpoint)
    flush(checkpoint.parent)
    allowed()
    write_manifest(checkpoint, manifest)
    # The older ones are the last good ones until this one has been read back.
    fault = damage(checkpoint, manifest)
    # Whoever took over meanwhile may have removed it, and the older ones are theirs.
    allowed()
    if fault is not None:
        raise StorageError(f"{checkpoint} {fault}, though it was just written; look at the disk")
    for older in _checkpoints(checkpoint.parent)[0][:-keep]:
        _remove(older)


def _remove(checkpoint: Path) -> None:
    # The mark goes first, so that a half-removed checkpoint does not pass for a whole one.
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


class CheckpointWriter:
    """Writes and marks one checkpoint at a time, in a thread of its own if ``in_background``.

    Files that are put in hold copies of the state in host memory, of the state's size, until they
    are written: training only waits for the copies. A fault of the thread comes out of the next
    call, and where the writer is left; an interruption waits for what is being written.
    ``allowed`` is asked before anything is written and before the mark, and may raise. Of finished
    checkpoints ``keep`` stay.
    """

    def __init__(
        self,
        *,
        in_background: bool = False,
        allowed: Callable[[], None] = lambda: None,
        keep: int = 1,
    ) -> None:
        self.allowed = allowed
        self._keep = keep
        self._pool = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._files: list[Callable[[], object]] = []
        self._writing: Future[None] | None = None

    def begin(self) -> None:
        """Wait until a checkpoint may be written."""
        self.wait()
        self.allowed()

    def put(self, write: Callable[[], object]) -> None:
        """Take what writes a file of the checkpoint that is coming."""
        if self._pool is None:
            write()
        else:
            self._files.append(write)

    def finish(self, checkpoint: Path) -> None:
        """Have the files written, then the checkpoint marked."""
        files, self._files = self._files, []
        if self._pool is None:
            self._write(files, checkpoint)
        else:
            self._writing = self._pool.submit(self._write, files, checkpoint)

    def _write(self, files: list[Callable[[], object]], checkpoint: Path) -> None:
        """Write a checkpoint's files, and mark it if that went well."""
        with writing(checkpoint):
            for write in files:
                write()
            mark_complete(checkpoint, self.allowed, keep=self._keep)

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


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; half-written (a killed process) and damaged ones are removed."""
    finished, unfinished = _checkpoints(folder)
    for path in unfinished:
        log.warning("removing the unfinished checkpoint %s", path)
        shutil.rmtree(path)
    remove_partials(folder)
    # A whole one without its optimiser was gone on from with a fresh one: other numbers, no word.
    while finished and (fault := damage(finished[-1], finished[-1] / MANIFEST)):
        path = finished.pop()
        goal = finished[-1].name if finished else "the start"
        log.warning("%s %s: it is removed, and training goes back to %s", path, fault, goal)
        _remove(path)
    return finished[-1] if finished else None


def _checkpoints(folder: Path) -> tuple[list[Path], list[Path]]:
    """Finished checkpoints, ascending by step, and unfinished ones."""
    numbered = [
        (int(match[1]), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    ascending = [path for _, path in sorted(numbered)]
    finished = [path for path in ascending if (path / MANIFEST).exists()]
    return finished, [path for path in ascending if path not in finished]
