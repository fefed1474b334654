"""A workbench without models: quick, deterministic, and as interruptible as the real one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from baselines.loop.checkpoints import (
    atomic_directory,
    checkpoint_path,
    last_complete_checkpoint,
    mark_complete,
)
from evaluators.base import Canary, Evaluator, JudgeConfig, Sample, Score
from soarbench.common.errors import UserError
from soarbench.config.settings import CellConfig
from soarbench.data.prompts import PromptItem
from soarbench.jobs.draw import Draw
from soarbench.store.cell_folder import CellFolder, TrainingLog
from soarbench.store.diagnostics import deviations_path, norms_path, source_key

#: Overrides that make cells small.
SMALL = (
    "budget.steps=6",
    "budget.num_snapshots=2",
    "budget.save_steps=2",
    "budget.max_prompts=3",
    "budget.images_per_prompt=1",
    "sampling.batch_size=2",
    "figure_formats=[png]",
)


@dataclass(frozen=True, kw_only=True)
class BrightnessConfig(JudgeConfig):
    kind = "brightness"
    title = "Brightness"
    summary = "mean pixel"
    unit = "level"
    value_range = (0.0, 255.0)

    def build(self) -> Evaluator:
        return Brightness()


class Brightness(Evaluator):
    """Mean pixel; one chosen image cannot be measured."""

    config = BrightnessConfig()

    def __init__(self, unreadable: str = "") -> None:
        self.unreadable = unreadable
        self.num_scored = 0

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        self.num_scored += len(samples)
        return [
            Score.unscored(sample.sample_id, "too dark")
            if sample.sample_id == self.unreadable
            else Score(
                sample_id=sample.sample_id,
                value=float(np.asarray(sample.image).mean()),
                details={"tag": sample.metadata.get("tag", "")},
            )
            for sample in samples
        ]

    def canaries(self) -> Sequence[Canary]:
        return ()


def first_weights(cell: CellConfig, folder: CellFolder) -> str:
    """What training starts from: the first stage's last weights, where there is one."""
    if cell.parent is None:
        return cell.label
    return (folder.sibling(cell.parent.cell_id).snapshot(cell.parent.step) / "weights").read_text()


def write_probes(cell: CellConfig, root: Path, key: str) -> None:
    """What following paths leaves: two images, a drift that grows by 0.1 a step of the sampler."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    norms = [{"step": step, "row": row, "norm": 1.0 + row} for step in cell.steps for row in (0, 1)]
    deviations = [
        {
            "step": cell.steps[-1], "row": row, "start": start, "index": index,
            "sigma": start * (1 - index / 2), "deviation": 0.1 * index,
        }
        for row in (0, 1) for start in (1.0, 0.5) for index in range(3)
    ]  # fmt: skip
    deviations_path(root, key).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(deviations), deviations_path(root, key))
    pq.write_table(pa.Table.from_pylist(norms), norms_path(root, key))


class FakeBench:
    """Counts what it is asked for; weights are a line of text.

    Args:
        delay: Seconds of every training step and drawn batch, so that a kill can hit it.
        broken: Label of a cell whose training raises.
        refuse: Message with which ``prepare`` refuses.
        unprobed: Label of a cell whose paths cannot be followed.
    """

    def __init__(
        self, delay: float = 0.0, broken: str = "", refuse: str = "", unprobed: str = ""
    ) -> None:
        self.delay = delay
        self.broken = broken
        self.refuse = refuse
        self.unprobed = unprobed
        self.calls: list[str] = []
        self.judge = Brightness()

    def prepare(self, cells: Sequence[CellConfig]) -> None:
        self.calls.append(f"prepare {len(cells)}")
        if self.refuse:
            raise UserError(self.refuse)

    def train(
        self, cell: CellConfig, folder: CellFolder, on_step: Callable[[int, str], None]
    ) -> dict[str, float]:
        self.calls.append(f"train {cell.label}")
        assert cell.training is not None
        checkpoint = last_complete_checkpoint(folder.root)
        weights = (
            (checkpoint / "weights").read_text() if checkpoint else first_weights(cell, folder)
        )
        first = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        with TrainingLog(folder) as log:
            for step in range(first + 1, cell.training.steps + 1):
                time.sleep(self.delay)
                if cell.label == self.broken and step == 3:
                    raise RuntimeError("reward 'x' returned 3 values for 4 images\nand more")
                weights = hashlib.sha256(f"{weights}{step}".encode()).hexdigest()
                log.append(step, {"train/loss": 1.0 / step, "images_seen": 32.0 * step})
                if step in cell.training.snapshot_steps and not folder.snapshot(step).exists():
                    with atomic_directory(folder.snapshot(step)) as unfinished:
                        (unfinished / "weights").write_text(weights)
                if step % cell.training.save_steps == 0:
                    place = checkpoint_path(folder.root, step)
                    place.mkdir(exist_ok=True)
                    (place / "weights").write_text(weights)
                    mark_complete(place)
                on_step(step, "")
        return {"optimizer_steps": float(cell.training.steps), "seconds": 1.0}

    def drawer(self, cell: CellConfig, folder: CellFolder, step: int) -> Draw:
        self.calls.append(f"load {cell.label} step {step}")
        weights = (folder.snapshot(step) / "weights").read_text() if step else "base"

        def draw(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
            time.sleep(self.delay)
            colors = [
                hashlib.sha256(f"{weights}{item.prompt_id}{index}".encode()).digest()[:3]
                for item, index in batch
            ]
            return [Image.new("RGB", (8, 8), tuple(color)) for color in colors]

        return draw

    def evaluator(self, cell: CellConfig, judge: str) -> Evaluator:
        assert judge in cell.judges
        return self.judge

    def probe(self, cell: CellConfig, source: CellConfig, folder: CellFolder) -> Iterator[int]:
        self.calls.append(f"probe {cell.label} on {source.task_name}")
        if cell.label == self.unprobed:
            raise RuntimeError("out of memory")
        write_probes(cell, folder.root, source_key(source))
        yield from cell.steps

    def scheduler_facts(self, cell: CellConfig) -> dict[str, object]:
        return {"scheduler": cell.model.name, "shift": 3.0}


def numbers(grid_folder: Path) -> str:
    """All scores and the table of a finished grid, as text that two runs can be compared by."""
    import pyarrow.parquet as pq

    rows: list[object] = []
    for path in sorted((grid_folder / "cells").glob("*/scores.parquet")):
        rows += pq.read_table(path).to_pylist()
    for path in sorted((grid_folder / "cells").glob("*/training.parquet")):
        rows += pq.read_table(path).to_pylist()
    return json.dumps(rows, sort_keys=True)
