"""One cell: train, sample, score, log; each stage goes on where an interruption left it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from baselines.loop.checkpoints import last_complete_checkpoint
from evaluators.base import Evaluator
from soarbench.common.progress import GridProgress
from soarbench.config.settings import CellConfig
from soarbench.evaluation.protocol import merge_parts, parts, planned_images, score_part
from soarbench.jobs.draw import Draw, sample_step
from soarbench.store.cell_folder import CellFolder, write_training_table
from soarbench.tracking.tracker import Tracker


class FirstStageMissing(RuntimeError):
    """The cell whose weights another starts from did not end well."""


class Bench(Protocol):
    """What the stages ask of ``workbench.Workbench``."""

    def prepare(self, cells: Sequence[CellConfig]) -> None:
        """Load and try everything that training depends on."""
        ...

    def train(
        self, cell: CellConfig, folder: CellFolder, on_step: Callable[[int, str], None]
    ) -> dict[str, float]:
        """Train to the end and leave snapshots; what it cost."""
        ...

    def drawer(self, cell: CellConfig, folder: CellFolder, step: int) -> Draw:
        """What draws images with the weights of a step."""
        ...

    def evaluator(self, cell: CellConfig, judge: str) -> Evaluator:
        """A judge by its name."""
        ...

    def scheduler_facts(self, cell: CellConfig) -> dict[str, object]:
        """The sampler's part of the fingerprint."""
        ...

    def probe(self, cell: CellConfig, source: CellConfig, folder: CellFolder) -> Iterator[int]:
        """Follow a finished cell's models along the images of ``source``, step by step."""
        ...


def run_cell(
    cell: CellConfig,
    folder: CellFolder,
    *,
    bench: Bench,
    tracker: Tracker,
    progress: GridProgress,
) -> None:
    """Bring a cell from wherever it is to its end.

    Raises:
        FirstStageMissing: The cell whose weights this one starts from is not finished.
    """
    folder.create(cell)
    require_first_stage(cell, folder)
    folder.update_status(state="running", reason=None)
    train(cell, folder, bench, progress)
    sample(cell, folder, bench, progress)
    score(cell, folder, bench, progress)
    with progress.stage((cell.cell_id, "log"), f"{cell.label}: log", 1):
        run_id = tracker.log_cell(cell, folder)
    folder.update_status(state="finished", mlflow_run_id=run_id)


def require_first_stage(cell: CellConfig, folder: CellFolder) -> None:
    """Make sure that the weights which training starts from are there.

    Raises:
        FirstStageMissing: They are not; says why.
    """
    if cell.parent is None:
        return
    first = folder.sibling(cell.parent.cell_id)
    status = first.status()
    if not first.is_finished() or not first.snapshot(cell.parent.step).is_dir():
        told = "not run" if status is None else status.reason or "not finished"
        raise FirstStageMissing(f"its first stage {cell.parent.cell_id} gave no weights: {told}")


def train(cell: CellConfig, folder: CellFolder, bench: Bench, progress: GridProgress) -> None:
    """Train, unless the cell is the base model or its training is over."""
    if cell.training is None or folder.training_table.is_file():
        return
    total = cell.training.steps
    resumed = last_complete_checkpoint(folder.root)
    with progress.stage((cell.cell_id, "train"), f"{cell.label}: train", total) as stage:
        if resumed is not None:
            stage.skip(int(resumed.name.rpartition("-")[2]))
        budget = bench.train(cell, folder, stage.reach)
    folder.update_status(budget=budget)
    write_training_table(folder)
    folder.remove_checkpoints()


def sample(cell: CellConfig, folder: CellFolder, bench: Bench, progress: GridProgress) -> None:
    """Draw all evaluation images of all steps."""
    if folder.scores_table.is_file():
        return
    images = sum(len(planned_images(suite)) for suite in cell.suites.values())
    total = images * len(cell.steps)
    with progress.stage((cell.cell_id, "sample"), f"{cell.label}: sample", total) as stage:
        for step in cell.steps:
            drawer = functools.partial(bench.drawer, cell, folder, step)
            sample_step(cell, folder, step, drawer, stage)


def score(cell: CellConfig, folder: CellFolder, bench: Bench, progress: GridProgress) -> None:
    """Have all judges score all images."""
    if folder.scores_table.is_file():
        return
    scheduler = bench.scheduler_facts(cell)
    total = sum(len(planned_images(suite)) for _, suite, _ in parts(cell))
    with progress.stage((cell.cell_id, "score"), f"{cell.label}: score", total) as stage:
        for step, suite, judge in parts(cell):
            evaluator = bench.evaluator(cell, judge)
            score_part(cell, folder, step, suite, judge, evaluator, scheduler, stage)
    merge_parts(cell, folder)
