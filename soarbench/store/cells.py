"""The one reader of stored cells: reports ask a ``Cell``, and open no file of it themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from soarbench.common.errors import StoreError
from soarbench.common.files import read_json
from soarbench.common.provenance import STORE_VERSION, UNKNOWN
from soarbench.config.settings import BASE
from soarbench.stats.clusters import FloatArray, IntArray
from soarbench.store.cell_folder import CellFolder, step_name
from soarbench.store.diagnostics import data_key, deviations_path, images_path, norms_path
from soarbench.store.scores import (
    Prompt,
    ScoreSet,
    read_diagnostics,
    read_prompts,
    read_scores,
    read_tags,
    read_training,
)

__all__ = ["Cell", "Hole", "Launch", "PlannedCell", "StoreError", "read_cell", "read_cells"]

FINISHED = "finished"
#: All protocols of a cell in one file, as ``export`` leaves them.
PROTOCOLS_FILE = "protocols.json"
Facts = Mapping[str, object]
"""What a protocol says, by field; ``judge`` holds the facts about the judge's number."""


class PlannedCell(Protocol):
    """What a launch intended; ``soarbench.config.settings.CellConfig`` is one."""

    @property
    def cell_id(self) -> str:
        """Address of the cell; name of its folder."""

    @property
    def task_name(self) -> str:
        """Name of the task; ``base`` for the base model."""

    @property
    def method_name(self) -> str:
        """Name of the method; ``base`` for the base model."""

    @property
    def seed(self) -> int:
        """Training seed."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A process that worked on a cell.

    Attributes:
        command: As it can be typed again.
        git_commit: Of its code.
        soarbench: Version.
        python: Version.
        platform: Operating system and machine.
    """

    command: str
    git_commit: str
    soarbench: str
    python: str
    platform: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell, as its ``config.json`` and ``status.json`` describe it.

    Attributes:
        folder: Where it lies.
        cell_id: Its address.
        task: Name; ``base`` for the base model.
        method: Name.
        seed: Of training.
        steps: At which images were to be evaluated, ascending.
        final_metric: Evaluator that decides; None for the base model.
        metrics: All evaluators, in the order in which its suites were configured.
        state: ``finished``, ``failed``, ``running`` or ``not started``.
        reason: Why it failed.
        mlflow_run_id: Its MLflow run.
        budget: What training spent, by name.
        data_key: Name of the data it trained on; None for the base model.
        created_at: Unix time of the first touch.
        launches: What worked on it, the first one first; empty where that was not recorded.
        config: Its whole configuration, as plain JSON values.
    """

    folder: Path
    cell_id: str
    task: str
    method: str
    seed: int
    steps: tuple[int, ...]
    final_metric: str | None
    metrics: tuple[str, ...]
    state: str
    reason: str | None
    mlflow_run_id: str | None
    budget: Mapping[str, float]
    data_key: str | None = None
    created_at: float = 0.0
    launches: tuple[Launch, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_base(self) -> bool:
        """Whether it is the untouched model, which all tasks share."""
        return self.task == BASE

    def scores(self, pool: dict[bytes, np.ndarray] | None = None) -> list[ScoreSet]:
        """All scores; see ``read_scores``."""
        return read_scores(self.folder, pool)

    def tags(self, evaluator: str) -> dict[str, str]:
        """The ``tag`` that an evaluator's scores name, by prompt."""
        return read_tags(self.folder, evaluator)

    def prompts(self) -> list[Prompt]:
        """Every prompt that was judged, by id."""
        return read_prompts(self.folder)

    def training(self) -> dict[str, tuple[IntArray, FloatArray]]:
        """What training logged: key to (steps, values); empty without a log."""
        return read_training(self.folder)

    def protocols(self) -> dict[tuple[str, str], Facts]:
        """The protocols by (suite, evaluator); empty where they were not kept."""
        packed = self.folder / PROTOCOLS_FILE
        if packed.is_file():
            return {_names(key): _facts(value) for key, value in read_json(packed).items()}
        # All steps of a cell are judged alike.
        first = sorted((self.folder / "scores").glob("step-*"))[:1]
        paths = sorted(path for step in first for path in step.glob("*.json"))
        return {_names(path.stem): _facts(read_json(path).get("protocol")) for path in paths}

    def has_diagnostics(self, key: str) -> bool:
        """Whether its images and, on the data of that ``data_key``, its velocity were measured."""
        return images_path(self.folder).is_file() and norms_path(self.folder, key).is_file()

    def statistics(self) -> pa.Table | None:
        """Statistics of every image, columns as ``images_path`` says; None without diagnostics."""
        return read_diagnostics(images_path(self.folder))

    def norms(self, key: str) -> pa.Table | None:
        """RMS of the velocity, columns as ``norms_path`` says; None where it was not measured."""
        return read_diagnostics(norms_path(self.folder, key))

    def deviations(self, key: str) -> pa.Table | None:
        """Distance to the training path, columns as ``deviations_path`` says; None as ``norms``."""
        return read_diagnostics(deviations_path(self.folder, key))

    def has_image(self, step: int, prompt_id: str, image_index: int) -> bool:
        """Whether an image is stored as it was drawn."""
        return CellFolder(self.folder).image(step, prompt_id, image_index).is_file()

    def image(self, step: int, prompt_id: str, image_index: int) -> Image.Image | None:
        """An image as it was drawn; None where it is not stored."""
        return _image(CellFolder(self.folder).image(step, prompt_id, image_index))

    def strip(self, task: str, step: int) -> Image.Image | None:
        """The samples of a task beside each other, as ``export`` leaves them; None without."""
        return _image(strip_path(self.folder, task, step))

    def strip_prompts(self, task: str) -> dict[str, str]:
        """Texts of a strip's prompts by id, in its order; empty without one."""
        path = prompts_path(self.folder, task)
        stored = read_json(path) if path.is_file() else {}
        return {prompt_id: str(text) for prompt_id, text in stored.items()}


def strip_path(folder: Path, task: str, step: int) -> Path:
    """Where ``export`` leaves the samples of a task beside each other, in one image."""
    return folder / "samples" / task / f"{step_name(step)}.jpg"


def prompts_path(folder: Path, task: str) -> Path:
    """Prompt texts by id, in the order of the strip's images."""
    return folder / "samples" / task / "prompts.json"


def packed_protocols(protocols: Mapping[tuple[str, str], Facts]) -> dict[str, object]:
    """The content of ``PROTOCOLS_FILE``."""
    return {".".join(names): dict(facts) for names, facts in protocols.items()}


def _names(key: str) -> tuple[str, str]:
    suite, _, evaluator = key.rpartition(".")
    return suite, evaluator


def _facts(value: object) -> Facts:
    return value if isinstance(value, dict) else {}


def _image(path: Path) -> Image.Image | None:
    if not path.is_file():
        return None
    with Image.open(path) as image:
        image.load()
        return image


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Something that should be in the report and is not.

    Attributes:
        cell_id: Of the cell.
        task: Its task.
        method: Its method.
        seed: Its seed.
        evaluator: Whose numbers are missing; None for all.
        reason: Why.
    """

    cell_id: str
    task: str
    method: str
    seed: int
    evaluator: str | None = None
    reason: str

    def describe(self) -> str:
        """One line for people."""
        part = f", {self.evaluator}" if self.evaluator else ""
        return f"{self.cell_id}{part}: {self.reason}"


def read_cells(
    grid_folder: Path, planned: Sequence[PlannedCell] | None = None
) -> tuple[list[Cell], list[Hole]]:
    """Read what cells there are.

    Args:
        grid_folder: ``runs/<grid>``.
        planned: The cells of a launch: others in the folder, which older configurations left, are
            passed over, and those without a folder are holes. None takes all there are.

    Returns:
        Finished cells, and a hole for each that is not; both by cell id.

    Raises:
        StoreError: No cell is finished, or two are the same method, task and seed.
    """
    root = grid_folder / "cells"
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if planned is not None:
        ids = {cell.cell_id for cell in planned}
        folders = [folder for folder in folders if folder.name in ids]
    cells = [read_cell(folder) for folder in folders if (folder / "config.json").is_file()]
    holes = [_hole(cell) for cell in cells if cell.state != FINISHED]
    if planned is not None:
        present = {cell.cell_id for cell in cells}
        holes += [
            Hole(
                cell_id=cell.cell_id,
                task=cell.task_name,
                method=cell.method_name,
                seed=cell.seed,
                reason="not started",
            )
            for cell in planned
            if cell.cell_id not in present
        ]
    finished = [cell for cell in cells if cell.state == FINISHED]
    if not finished:
        reasons = "; ".join(hole.describe() for hole in holes[:3])
        raise StoreError(
            f"{root} holds no finished cell" + (f" ({reasons})" if reasons else "") + "; run "
            f"`python -m soarbench run grid={grid_folder.name}` first, or name its output_dir="
        )
    _refuse_twins(finished)
    return finished, sorted(holes, key=lambda hole: hole.cell_id)


def _hole(cell: Cell) -> Hole:
    """What an unfinished cell leaves open."""
    reason = cell.state if cell.reason is None else f"{cell.state}: {cell.reason}"
    return Hole(
        cell_id=cell.cell_id, task=cell.task, method=cell.method, seed=cell.seed, reason=reason
    )


def _refuse_twins(cells: Sequence[Cell]) -> None:
    owners: dict[tuple[str, str, int], Cell] = {}
    for cell in cells:
        other = owners.setdefault((cell.task, cell.method, cell.seed), cell)
        if other is not cell:
            raise StoreError(
                f"{cell.cell_id} and {other.cell_id} are the same method, task and seed with "
                "different configurations; report with the overrides of the one you mean, or "
                f"remove the other from {cell.folder.parent}"
            )


def read_cell(folder: Path) -> Cell:
    """Read one cell's configuration and status.

    Raises:
        StoreError: Another version wrote them.
    """
    config = read_json(folder / "config.json")
    _refuse_newer(folder, config.get("version", 1))
    status_path = folder / "status.json"
    status = read_json(status_path) if status_path.is_file() else {"state": "not started"}
    try:
        final_metric, reason = config["final_metric"], status.get("reason")
        run_id, budget = status.get("mlflow_run_id"), status.get("budget") or {}
        return Cell(
            folder=folder,
            cell_id=str(config["cell_id"]),
            task=str(config["task"]),
            method=str(config["method"]),
            seed=int(str(config["seed"])),
            steps=tuple(int(step) for step in _items(config["steps"])),
            final_metric=None if final_metric is None else str(final_metric),
            metrics=_as_configured(_items(config["metrics"]), config["config"]),
            state=str(status["state"]),
            reason=None if reason is None else str(reason),
            mlflow_run_id=None if run_id is None else str(run_id),
            budget=_numbers(budget),
            data_key=_data_key(config),
            config=_facts(config["config"]),
            created_at=float(str(status.get("created_at", 0.0))),
            launches=_launches(folder / "launches.json"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{folder}: config.json or status.json was written by another version ({error!r}); "
            "delete the folder and run the grid again"
        ) from error


def _as_configured(metrics: Sequence[str], config: object) -> tuple[str, ...]:
    """Evaluators in the order of the suites that they judge, which is that of a table's columns."""
    suites = _facts(_facts(config).get("suites")).values()
    order = [name for suite in suites for name in _items(_facts(suite).get("evaluators", []))]
    return tuple(sorted(metrics, key=lambda name: (*order, *metrics).index(name)))


def _data_key(config: Mapping[str, object]) -> str | None:
    data = _facts(config["config"]).get("data")
    return None if data is None else data_key(str(config["task"]), data)


def _refuse_newer(folder: Path, version: object) -> None:
    if version not in range(1, STORE_VERSION + 1):
        raise StoreError(
            f"{folder} is of store version {version}, and this soarbench reads 1 to "
            f"{STORE_VERSION}; install the soarbench that wrote it"
        )


def _launches(path: Path) -> tuple[Launch, ...]:
    if not path.is_file():
        return ()
    stored = read_json(path)["launches"]
    if not isinstance(stored, list):
        raise TypeError(f"{path}: launches is no list")
    names = [entry.name for entry in fields(Launch)]
    return tuple(
        Launch(**{name: str(launch.get(name, UNKNOWN)) for name in names}) for launch in stored
    )


def _items(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(str(item) for item in value)


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    return {str(name): float(number) for name, number in value.items()}
