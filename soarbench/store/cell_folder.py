"""The files of one cell."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from baselines.loop.checkpoints import snapshot_path
from soarbench.common.files import read_json, write_atomically, write_json
from soarbench.common.provenance import STORE_VERSION, this_launch
from soarbench.common.strict import build
from soarbench.config.settings import CellConfig

State = Literal["running", "finished", "failed"]


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a cell is.

    Attributes:
        state: ``running`` from the first touch on, also while no process works on it.
        reason: Why it failed.
        created_at: Unix time; also the time stamp of its metrics, so that logging twice is logging
            once.
        mlflow_run_id: Its MLflow run.
        budget: What training spent: optimizer_steps, images_seen, forward_equivalents,
            reward_calls, seconds.
    """

    state: State = "running"
    reason: str | None = None
    created_at: float = field(default_factory=time.time)
    mlflow_run_id: str | None = None
    budget: Mapping[str, float] = field(default_factory=dict)


def step_name(step: int) -> str:
    """Folder name of a step."""
    return f"step-{step:06d}"


@dataclass(frozen=True)
class CellFolder:
    """Where a cell keeps what."""

    root: Path

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.json"

    @property
    def status_path(self) -> Path:
        """See ``Status``."""
        return self.root / "status.json"

    @property
    def launches_path(self) -> Path:
        """The commands that worked on the cell, with their commits."""
        return self.root / "launches.json"

    @property
    def budget_path(self) -> Path:
        """What training in several processes cost; they leave it for the one that launched them."""
        return self.root / "budget.json"

    @property
    def grid(self) -> str:
        """Name of the grid's run folder that it lies in."""
        return self.root.parents[1].name

    def sibling(self, cell_id: str) -> CellFolder:
        """The folder of another cell of the same run folder."""
        return CellFolder(self.root.parent / cell_id)

    def snapshot(self, step: int) -> Path:
        """Weights after ``step`` updates, to be evaluated."""
        return snapshot_path(self.root, step)

    @property
    def training_log(self) -> Path:
        """What training logged, as it comes; one JSON object a line."""
        return self.root / "training.jsonl"

    @property
    def training_table(self) -> Path:
        """The same, complete: exists exactly when training is over."""
        return self.root / "training.parquet"

    def image(self, step: int, prompt_id: str, image_index: int) -> Path:
        """One evaluation image."""
        return self.root / "images" / step_name(step) / prompt_id / f"{image_index:04d}.png"

    def sheet(self, step: int) -> Path:
        """Sample sheet of a step."""
        return self.root / "sheets" / f"{step_name(step)}.png"

    def part(self, step: int, suite: str, evaluator: str) -> Path:
        """Scores of one judge on one suite at one step."""
        return self.root / "scores" / step_name(step) / f"{suite}.{evaluator}.parquet"

    def summary(self, step: int, suite: str, evaluator: str) -> Path:
        """Aggregate of the same, and the protocol behind its fingerprint."""
        return self.part(step, suite, evaluator).with_suffix(".json")

    @property
    def scores_table(self) -> Path:
        """All scores; exists exactly when scoring is over."""
        return self.root / "scores.parquet"

    def create(self, cell: CellConfig) -> None:
        """Write the configuration and a first status, unless they exist, and who works on it."""
        if not self.config_path.is_file():
            write_json(self.config_path, described(cell))
        if not self.status_path.is_file():
            self.write_status(Status())
        self._record_launch()

    def _record_launch(self) -> None:
        """Add this process to those that worked on the cell."""
        launches: list[object] = []
        if self.launches_path.is_file():
            stored = read_json(self.launches_path)["launches"]
            assert isinstance(stored, list)
            launches = stored
        if this_launch() not in launches:
            write_json(self.launches_path, {"launches": [*launches, this_launch()]})

    def status(self) -> Status | None:
        """The stored status; None before the first touch."""
        if not self.status_path.is_file():
            return None
        return build(Status, read_json(self.status_path), str(self.status_path))

    def write_status(self, status: Status) -> None:
        """Store a status."""
        write_json(self.status_path, dataclasses.asdict(status))

    def update_status(self, **changes: object) -> Status:
        """Change some fields of the stored status."""
        status = dataclasses.replace(self.status() or Status(), **changes)  # type: ignore[arg-type]
        self.write_status(status)
        return status

    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        status = self.status()
        return status is not None and status.state == "finished"

    def remove_checkpoints(self) -> None:
        """Drop optimiser states, which nothing needs once training is over."""
        for checkpoint in self.root.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def described(cell: CellConfig) -> dict[str, object]:
    """What ``config.json`` holds: the facts that reports ask for, and the whole configuration."""
    task = cell.task
    return {
        "version": STORE_VERSION,
        "cell_id": cell.cell_id,
        "grid": cell.grid,
        "task": cell.task_name,
        "method": cell.method_name,
        "seed": cell.seed,
        "steps": list(cell.steps),
        "final_metric": None if task is None else task.final_metric,
        "metrics": sorted({name for suite in cell.suites.values() for name in suite.judges}),
        "oracle_metrics": [] if task is None else list(task.oracle_metrics),
        "suites": sorted(cell.suites),
        "config": cell.content(),
    }


class TrainingLog:
    """Appends what training logs; a killed process loses at most the line it was writing."""

    def __init__(self, folder: CellFolder) -> None:
        folder.root.mkdir(parents=True, exist_ok=True)
        self._stream = folder.training_log.open("a")
        if folder.training_log.stat().st_size > 0:
            self._stream.write("\n")  # ends a torn line; empty lines are skipped on reading

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Store the values of one step."""
        self._stream.write(json.dumps({"step": step, "values": dict(values)}) + "\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def read_training_log(folder: CellFolder) -> dict[tuple[int, str], float]:
    """Logged values by (step, key), by step; a step that was trained twice counts once."""
    found: dict[tuple[int, str], float] = {}
    lines = folder.training_log.read_text().splitlines() if folder.training_log.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # torn by a kill; the resumed training logged that step again
        for key, value in row["values"].items():
            found[row["step"], key] = value
    return dict(sorted(found.items()))


def write_training_table(folder: CellFolder) -> None:
    """Make ``training.parquet`` of the log: columns step, key, value."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = read_training_log(folder)
    table = pa.table(
        {
            "step": pa.array([step for step, _ in rows], pa.int64()),
            "key": pa.array([key for _, key in rows], pa.string()),
            "value": pa.array(list(rows.values()), pa.float64()),
        }
    )
    write_atomically(folder.training_table, lambda partial: pq.write_table(table, partial))
