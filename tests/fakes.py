"""A workbench without models: quick, deterministic, and as interruptible as the real one."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from baselines.loop.checkpoints import (
    checkpoint_path,
    last_complete_checkpoint,
    mark_complete,
    new_snapshot,
    snapshot_damage,
)
from evaluators.base import Canary, Evaluator, JudgeConfig, Sample, Score
from evaluators.diversity.config import Measure
from soarbench.common.errors import UserError
from soarbench.data.prompts import PromptItem
from soarbench.diagnostics.measured import Measured, States
from soarbench.evaluation.drawing import Draw
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.jobs.base import Job
from soarbench.store.artefact import Store
from soarbench.store.training import TrainingFolder, TrainingLog

#: Overrides that make cells small.
SMALL = (
    "budget.steps=6",
    "budget.num_snapshots=2",
    "budget.cost_shares=[]",
    "budget.save_steps=2",
    "budget.max_prompts=3",
    "budget.images_per_prompt=1",
    "sampling.batch_size=2",
    "figure_formats=[]",
)


@dataclass(frozen=True, kw_only=True)
class BrightnessConfig(JudgeConfig):
    """Mean pixel."""

    kind: ClassVar[str] = "brightness"
    title: ClassVar[str] = "Brightness"
    summary: ClassVar[str] = "how bright the image is"
    value_range: ClassVar[tuple[float, float]] = (0.0, 255.0)
    unit: ClassVar[str] = "level"

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


class FakeWorkbench:
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
        #: The step of training after which it is interrupted.
        self.stop_after = 0
        self.calls: list[str] = []
        self.judge = Brightness()
        self.store = Store(Path())

    def at(self, store: Store) -> FakeWorkbench:
        """The same, working in a store."""
        self.store = store
        return self

    def folder(self, cell: CellConfig) -> TrainingFolder:
        source = addresses.training(cell)
        assert source is not None
        return TrainingFolder(self.store.artefact(source.address).root)

    def prepare(self, jobs: Sequence[Job]) -> None:
        self.calls.append(f"prepare {len({addresses.cell_id(job.cell) for job in jobs})}")
        if self.refuse:
            raise UserError(self.refuse)

    def _start(self, cell: CellConfig) -> str:
        """What training starts from: the first stage's last weights, where there is one."""
        if cell.parent is None:
            return cell.label
        snapshot = self.folder(cell.parent).snapshot(cell.parent.steps[-1])
        return (snapshot / "weights").read_text()

    def train(self, cell: CellConfig, on_step: Callable[[int, str], None]) -> dict[str, float]:
        self.calls.append(f"train {cell.label}")
        assert cell.training is not None
        folder = self.folder(cell)
        checkpoint = last_complete_checkpoint(folder.root)
        weights = (checkpoint / "weights").read_text() if checkpoint else self._start(cell)
        first = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        with TrainingLog(folder) as log:
            log.go_back(checkpoint)
            for step in range(first + 1, cell.training.steps + 1):
                time.sleep(self.delay)
                if cell.label == self.broken and step == 3:
                    raise RuntimeError("reward 'x' returned 3 values for 4 images\nand more")
                weights = hashlib.sha256(f"{weights}{step}".encode()).hexdigest()
                log.append(step, {"train/loss": 1.0 / step, "images_seen": 32.0 * step})
                if step in cell.steps and snapshot_damage(folder.snapshot(step)):
                    shutil.rmtree(folder.snapshot(step), ignore_errors=True)
                    with new_snapshot(folder.snapshot(step)) as unfinished:
                        (unfinished / "weights").write_text(weights)
                if step % (cell.training.save_steps or 1) == 0:
                    place = checkpoint_path(folder.root, step)
                    place.mkdir(exist_ok=True)
                    (place / "weights").write_text(weights)
                    log.save(place)
                    mark_complete(place)
                on_step(step, "")
                if step == self.stop_after:
                    raise KeyboardInterrupt
        return {"optimizer_steps": float(cell.training.steps), "seconds": 1.0}

    def drawer(self, cell: CellConfig, step: int) -> Draw:
        self.calls.append(f"load {cell.label} step {step}")
        weights = (self.folder(cell).snapshot(step) / "weights").read_text() if step else "base"

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

    def base_states(self, cell: CellConfig, source: CellConfig) -> States:
        """Two images, as the base drifts at one level."""
        self.calls.append(f"states {cell.label} on {source.task_name}")
        return {0.5: np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)}

    def probe(
        self, cell: CellConfig, source: CellConfig, step: int, *, states: States | None
    ) -> Measured:
        """Two images, an error off the path of 0.1 a row."""
        if step == cell.own_steps[0]:
            self.calls.append(f"probe {cell.label} on {source.task_name}")
        if cell.label == self.unprobed:
            raise RuntimeError("out of memory")
        exposure = [
            {"row": row, "measure": "off_path", "level": level, "sigma": level, "value": 0.1 * row}
            for level, state in (states or {}).items() for row in range(len(state))
        ]  # fmt: skip
        norms = [{"row": row, "norm": 1.0 + row} for row in (0, 1)]
        return Measured(norms=norms, exposure=exposure)

    def diversity(self, cell: CellConfig, measure: str) -> Measure:
        assert measure in cell.diversity
        return lambda images: 1.0 + len(images) / 10

    def scheduler_facts(self, cell: CellConfig) -> dict[str, object]:
        return {"scheduler": cell.model.name, "shift": 3.0}


def numbers(store: Path) -> str:
    """All scores and training logs of a store, as text that two runs can be compared by."""
    import pyarrow.parquet as pq

    tables = {
        str(path.relative_to(store)): pq.read_table(path).to_pylist()
        for name in ("rows", "training")
        for path in sorted(store.glob(f"*/*/{name}.parquet"))
    }
    return json.dumps(tables, sort_keys=True)
