"""The files of one training: weights of its snapshots, what it logged, what it cost."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

from baselines.loop.checkpoints import (
    MANIFEST,
    removal_note,
    snapshot_damage,
    snapshot_manifest,
    snapshot_path,
)
from baselines.loop.disk import (
    atomic_directory,
    damage,
    partial_path,
    remove_partials,
    write_manifest,
    writing,
)
from soarbench.common.errors import Damaged
from soarbench.common.files import is_parquet, read_record, write_atomically, write_record
from soarbench.store.artefact import Artefact

#: Says which snapshots a training is repeated for.
_LACKING = "lacking.json"


def _weights(manifest: Path) -> dict[str, object]:
    """Size and digest of every file that a snapshot's manifest names, but for configurations."""
    files = json.loads(manifest.read_bytes())["files"]
    # diffusers and peft write down the folder that the base was loaded from: another checkout's
    # differs, and its weights need not.
    return {name: facts for name, facts in files.items() if not name.endswith("config.json")}


@dataclass(frozen=True)
class TrainingFolder(Artefact):
    """Where a training keeps what; checkpoints lie in it until it is over.

    ``manifest.json`` says what the log and the cost were when it was.
    """

    def snapshot(self, step: int) -> Path:
        """Weights after ``step`` updates, to be evaluated."""
        return snapshot_path(self.root, step)

    @property
    def log_path(self) -> Path:
        """What training logged, as it comes; one JSON object a line."""
        return self.root / "training.jsonl"

    @property
    def machine_path(self) -> Path:
        """How busy the machine was meanwhile (``store.machine``); none of a short training."""
        return self.root / "machine.jsonl"

    @property
    def table_path(self) -> Path:
        """The same, complete: exists exactly when training is over."""
        return self.root / "training.parquet"

    @property
    def cost_path(self) -> Path:
        """What training cost: optimizer_steps, images_seen, forward_equivalents, ..."""
        return self.root / "cost.json"

    @property
    def choices_path(self) -> Path:
        """Settings that were left to the GPUs, as training began with them."""
        return self.root / "choices.json"

    def choices(self) -> dict[str, object]:
        """Those settings, by key."""
        return read_record(self.choices_path) or {}

    def note_choices(self, values: Mapping[str, object]) -> None:
        """Keep more of them."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_record(self.choices_path, {**self.choices(), **values})

    @property
    def scales_path(self) -> Path:
        """What rewards are divided by, as training began with it."""
        return self.root / "reward_scales.json"

    def reward_scales(self) -> dict[str, float]:
        """Those divisors by reward; empty before they are measured."""
        return {k: float(str(v)) for k, v in (read_record(self.scales_path) or {}).items()}

    def note_reward_scales(self, scales: Mapping[str, float]) -> None:
        """Keep them: a training that goes on does so with the same."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_record(self.scales_path, dict(scales))

    @property
    def is_whole(self) -> bool:
        """Whether training is over."""
        return is_parquet(self.table_path)

    def cost(self) -> dict[str, float]:
        """What training cost, by counter; empty before its end."""
        return {k: float(str(v)) for k, v in (read_record(self.cost_path) or {}).items()}

    def finish(self, cost: Mapping[str, float]) -> None:
        """Keep what training cost, then declare it over."""
        write_record(self.cost_path, dict(cost))
        write_manifest(self.root, self._manifest, [self.log_path])
        self.write_table()

    def write_table(self) -> None:
        """Make the table of the log, which says that training is over."""
        # First what nothing needs any more: after the table nobody comes back to remove it.
        self.remove_checkpoints()
        remove_partials(self.root)
        write_training_table(self)

    @property
    def was_whole(self) -> bool:
        """Whether training was over once, whatever was lost since."""
        return self._manifest.is_file()

    def fault(self, steps: Sequence[int]) -> str | None:
        """What lacks, beside its table, of a training that was whole; ``steps`` of snapshots."""
        if fault := damage(self.root, self._manifest):
            return f"{self.root} {fault}"
        for snapshot in map(self.snapshot, self.faulty(steps)[:1]):
            return f"{snapshot} {snapshot_damage(snapshot)}"
        return None

    def faulty(self, steps: Sequence[int]) -> list[int]:
        """Steps whose snapshots are damaged or gone, unless they were removed on purpose."""
        return [
            step
            for step in steps
            if snapshot_damage(self.snapshot(step)) and not self._is_removed(step)
        ]

    def _is_removed(self, step: int) -> bool:
        """Whether a snapshot was removed on purpose."""
        snapshot = self.snapshot(step)
        return not snapshot.is_dir() and removal_note(snapshot).is_file()

    def begin_again(self, lacking: Sequence[int], last: int) -> None:
        """Make a finished training one to be repeated, for snapshots that it lacks.

        What it came to is kept until ``is_as_before``: its log, and the snapshot of its ``last``
        step, unless that is gone or damaged.
        """
        snapshot = self.snapshot(last)
        if not self._before.is_dir() and snapshot_damage(snapshot) is None:
            with atomic_directory(self._before) as kept:
                shutil.copytree(snapshot, kept / snapshot.name)
                shutil.copyfile(self.log_path, kept / self.log_path.name)
                write_manifest(snapshot, kept / MANIFEST)
                (kept / _LACKING).write_text(json.dumps(list(lacking)))
        if self._before.is_dir():
            shutil.rmtree(snapshot, ignore_errors=True)
        for step in lacking:
            removal_note(self.snapshot(step)).unlink(missing_ok=True)
        # The table says that training is over, the manifest that it was.
        self.table_path.unlink(missing_ok=True)
        self._manifest.unlink()

    def is_as_before(self, last: int) -> bool:
        """Whether a repeated training came to the weights that it had; if not, these come back."""
        kept, snapshot = self._before, self.snapshot(last)
        if not kept.is_dir():
            return True
        is_alike = _weights(snapshot_manifest(snapshot)) == _weights(kept / MANIFEST)
        if not is_alike:
            self._bring_back(snapshot)
        self._remove(kept)
        return is_alike

    def _bring_back(self, snapshot: Path) -> None:
        """Leave the training as it was before it was repeated."""
        kept = self._before
        # In place of what the repetition made, so that a kill in between repeats this much.
        for made in map(self.snapshot, json.loads((kept / _LACKING).read_text())):
            shutil.rmtree(made, ignore_errors=True)
            snapshot_manifest(made).unlink(missing_ok=True)
        shutil.rmtree(snapshot, ignore_errors=True)
        shutil.copyfile(kept / MANIFEST, snapshot_manifest(snapshot))
        shutil.copytree(kept / snapshot.name, snapshot)
        shutil.copyfile(kept / self.log_path.name, self.log_path)
        write_manifest(self.root, self._manifest, [self.log_path])
        self.write_table()

    @property
    def _before(self) -> Path:
        return self.root / "before"

    def remove_snapshot(self, step: int, why: str) -> None:
        """Remove weights on purpose, with a note of it."""
        snapshot = self.snapshot(step)
        write_atomically(removal_note(snapshot), lambda partial: partial.write_text(why))
        self._remove(snapshot)

    def _remove(self, folder: Path) -> None:
        """Remove a folder, which others see whole or not at all."""
        # Half of what was ``before`` would be compared with, and put in the place of the weights.
        gone = partial_path(self.root / folder.name)
        folder.rename(gone)
        shutil.rmtree(gone)

    @property
    def _manifest(self) -> Path:
        return self.root / MANIFEST

    def require_snapshot(self, step: int) -> None:
        """Make sure that weights are as they were written; ``Damaged`` where they are not."""
        snapshot = self.snapshot(step)
        if fault := snapshot_damage(snapshot):
            # No longer whole, whoever asks; the job that trains looks once more at all of it, as
            # the disk may have been away for a moment.
            removal_note(snapshot).unlink(missing_ok=True)
            self.table_path.unlink(missing_ok=True)
            raise Damaged(f"{snapshot} {fault}; its training is repeated", self.address)

    def remove_checkpoints(self) -> None:
        """Drop optimiser states, which nothing needs once training is over."""
        for checkpoint in self.root.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


class TrainingLog:
    """Appends what training logs; a killed process loses at most the line it was writing.

    Every checkpoint has a copy, so that the log survives what the checkpoint survives.
    """

    def __init__(self, folder: TrainingFolder) -> None:
        self._path = folder.log_path
        # Opened late: of the processes that train together one logs, and a file that several nodes
        # extend at once gets holes on network disks.
        self._stream: TextIO | None = None

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Store the values of one step."""
        with writing(self._path):
            if self._stream is None:
                self._stream = self._opened()
            self._stream.write(json.dumps({"step": step, "values": dict(values)}) + "\n")
            # A killed process keeps what it flushed; the resumed one logs only what came after.
            self._stream.flush()

    def _opened(self) -> TextIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        stream = self._path.open("a")
        if self._path.stat().st_size > 0:
            stream.write("\n")  # ends a torn line; empty lines are skipped on reading
        return stream

    def save(self, checkpoint: Path) -> None:
        """Copy what was logged so far into a checkpoint."""
        if self._path.is_file():
            shutil.copyfile(self._path, checkpoint / self._path.name)

    def go_back(self, checkpoint: Path | None) -> None:
        """Hold what a checkpoint's copy says; nothing without one."""
        copy = None if checkpoint is None else checkpoint / self._path.name
        if copy is not None and copy.is_file():
            write_atomically(self._path, functools.partial(shutil.copyfile, copy))
        else:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()


def read_training_log(folder: TrainingFolder) -> dict[tuple[int, str], float]:
    """Logged values by (step, key), by step; a step that was trained twice counts once."""
    values: dict[tuple[int, str], float] = {}
    lines = folder.log_path.read_bytes().splitlines() if folder.log_path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
            logged = {(int(row["step"]), str(k)): float(v) for k, v in row["values"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # torn by a kill; the resumed training logged that step again
        values |= logged
    return dict(sorted(values.items()))


def write_training_table(folder: TrainingFolder) -> None:
    """Make ``training.parquet`` of the log: columns step, key, value."""
    # Worker processes import this module for the log, and need no tables.
    import pyarrow as pa
    import pyarrow.parquet as pq

    logged = read_training_log(folder).items()
    rows = [{"step": step, "key": key, "value": value} for (step, key), value in logged]
    columns = [("step", pa.int64()), ("key", pa.string()), ("value", pa.float64())]
    table = pa.Table.from_pylist(rows, pa.schema(columns))
    write_atomically(folder.table_path, lambda partial: pq.write_table(table, partial))
