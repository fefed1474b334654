"""Writes cells of simulated scores, in the tables and columns that real ones have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from soarbench.common.files import read_json
from soarbench.evaluation.protocol import fingerprint
from soarbench.evaluation.rows import SCHEMA as ROW_SCHEMA
from soarbench.grid.checkpoint_rule import LAST
from soarbench.report import build
from soarbench.report.options import ReportOptions
from soarbench.report.source import GridCells
from soarbench.store.cells import Cell, Hole, finished_and_holes, launch_of
from soarbench.store.exports import Manifest, write_export
from soarbench.store.facts import JUDGE, MetricFacts
from soarbench.store.judged import ScoresFolder
from soarbench.store.tables import Facts, Table

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SCHEMA = pa.schema(
    [
        *ROW_SCHEMA, pa.field("step", pa.int64()), pa.field("evaluator", pa.string()),
        pa.field("suite", pa.string()),
    ]
)  # fmt: skip
#: What trained cells trained on.
DATA = {"seed": 1000}


def data_key(task: str) -> str:
    """Name of the data of a task."""
    return f"{task}-data"


#: Where each evaluator's scores lie for the base, between images, and which suite it judges.
SCALES = {
    "aesthetic": (5.36, 0.4, "drawbench"),
    "oracle_aesthetic": (5.0, 0.5, "drawbench"),
    "clipscore": (0.285, 0.03, "geneval"),
    "oracle_geneval": (0.60, 0.0, "geneval"),
    "geneval": (0.60, 0.0, "geneval"),
    "ocr": (0.50, 0.2, "ocr"),
}

FACTS = {
    name: MetricFacts(
        name=name, title=title, unit="points", decimals=decimals, value_range=(0.0, 10.0),
        higher_is_better=True, is_macro_mean="geneval" in name, is_oracle=bool(oracle_of),
        oracle_of=oracle_of,
    )
    for name, title, decimals, oracle_of in (
        ("geneval", "GenEval", 3, ()),
        ("ocr", "OCR", 3, ()),
        ("clipscore", "CLIPScore", 4, ()),
        ("aesthetic", "Aesthetic", 3, ()),
        ("oracle_geneval", "GenEval (oracle)", 3, ("clipscore",)),
        ("oracle_aesthetic", "Aesthetic (oracle)", 3, ("aesthetic",)),
    )
}  # fmt: skip


def stored_facts(facts: MetricFacts) -> dict[str, object]:
    """A protocol with nothing but the facts about the judge's number."""
    return {JUDGE: {key: value for key, value in vars(facts).items() if key != "name"}}


@dataclass(frozen=True)
class Folder:
    """What is simulated for one cell.

    ``gains`` is by evaluator, in units of the spread between images, reached at the last step.
    """

    method: str
    task: str
    seed: int = 0
    metrics: tuple[str, ...] = ("aesthetic", "oracle_aesthetic")
    final_metric: str | None = "aesthetic"
    gains: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[int, ...] = (50, 100, 150)
    num_prompts: int = 40
    images_per_prompt: int = 2
    state: str = "finished"
    reason: str | None = None
    fingerprint: str = "f00d"
    suffix: str = ""
    unscored: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, MetricFacts] = field(default_factory=lambda: FACTS)

    @property
    def cell_id(self) -> str:
        words = self.method if self.task == "base" else f"{self.method}-{self.task}"
        return f"{words}-seed{self.seed}-0123456789ab{self.suffix}"


def base(**changes: object) -> Folder:
    """The base model's cell."""
    folder = Folder(
        method="base", task="base", metrics=tuple(SCALES), final_metric=None, steps=(0,)
    )
    return replace(folder, **changes)


def write_cell(grid_folder: Path, cell: Folder) -> Path:
    """Write one cell's files; returns its folder."""
    folder = grid_folder / "cells" / cell.cell_id
    folder.mkdir(parents=True)
    _write_json(
        folder / "config.json",
        {
            "cell_id": cell.cell_id, "grid": grid_folder.name, "task": cell.task,
            "method": cell.method, "seed": cell.seed, "steps": list(cell.steps),
            "final_metric": cell.final_metric, "paths": {},
            "metrics": [name for suite in _suites(cell).values() for name in suite["judges"]],
            "data_key": None if cell.task == "base" else data_key(cell.task),
            "oracle_metrics": [name for name in cell.metrics if name.startswith("oracle_")],
            "config": {"data": None if cell.task == "base" else DATA, "suites": _suites(cell)},
        },
    )  # fmt: skip
    trained = cell.task != "base" and cell.state == "finished"
    budget = _budget(cell, cell.steps[-1]) if trained else {}
    _write_json(
        folder / "status.json",
        {
            "state": cell.state, "reason": cell.reason, "created_at": 0.0,
            "mlflow_run_id": f"run-{cell.cell_id}", "budget": budget,
        },
    )  # fmt: skip
    if cell.state == "finished":
        rows = [
            row for step in cell.steps for name in cell.metrics for row in _rows(cell, step, name)
        ]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "scores.parquet")
        _write_json(
            folder / "protocols.json",
            {f"{SCALES[name][2]}.{name}": stored_facts(cell.facts[name]) for name in cell.metrics},
        )
        if trained:
            _write_training(folder / "training.parquet", cell)
    return folder


def write_grid(grid_folder: Path, cells: Sequence[Folder]) -> Path:
    """Write several cells; returns ``grid_folder``."""
    for cell in cells:
        write_cell(grid_folder, cell)
    return grid_folder


def reward_specific(seeds: Sequence[int] = (0, 1, 2), **changes: object) -> list[Folder]:
    """A grid in which SOAR beats SFT on aesthetics, Flow-GRPO games it, and alignment is a tie."""
    cells = [base(**changes)]
    for seed in seeds:
        for method, learned, true in (
            ("sft", 0.5, 0.5),
            ("soar", 1.0, 0.9),
            ("flow_grpo", 1.2, 0.1),
        ):
            cells.append(
                Folder(
                    method=method, task="aesthetic", seed=seed,
                    gains={"aesthetic": learned, "oracle_aesthetic": true}, **changes,
                )
            )  # fmt: skip
            cells.append(
                Folder(
                    method=method, task="alignment", seed=seed, final_metric="clipscore",
                    metrics=("clipscore", "oracle_geneval"), gains={"clipscore": 0.35}, **changes,
                )
            )  # fmt: skip
    return cells


def main_table(seeds: Sequence[int] = (0,), **changes: object) -> list[Folder]:
    """Base, SFT and SOAR judged by four evaluators."""
    metrics = ("geneval", "ocr", "clipscore", "aesthetic", "oracle_aesthetic")
    cells = [base(**changes)]
    for seed in seeds:
        for method, gain in (("sft", 0.3), ("soar", 0.9)):
            cells.append(
                Folder(
                    method=method, task="general", seed=seed, metrics=metrics,
                    final_metric="geneval", gains=dict.fromkeys(metrics, gain), **changes,
                )
            )  # fmt: skip
    return cells


def _suites(cell: Folder) -> dict[str, dict[str, list[str]]]:
    """What judges what, in the order of the cell's metrics."""
    suites: dict[str, dict[str, list[str]]] = {}
    for name in cell.metrics:
        suites.setdefault(SCALES[name][2], {"judges": []})["judges"].append(name)
    return suites


def _rows(cell: Folder, step: int, evaluator: str) -> list[dict[str, object]]:
    center, spread, suite = SCALES[evaluator]
    shape = (cell.num_prompts, cell.images_per_prompt)
    gain = cell.gains.get(evaluator, 0.0) * (step / cell.steps[-1]) ** 0.5 if step else 0.0
    # The same prompts and noise for all cells, and a little of each cell's own.
    shared = np.random.default_rng([1, len(evaluator)])
    own = np.random.default_rng([2, cell.seed, step, len(cell.method), len(evaluator)])
    common = shared.normal(size=(shape[0], 1)) + 0.5 * shared.normal(size=shape)
    latent = 0.8 * common + 0.5 * own.normal(size=shape) + gain
    latent = latent + (0.05 * own.normal() if step else 0.0)
    values = center + spread * latent if spread else (latent > -0.25).astype(float)
    rows = []
    for prompt in range(shape[0]):
        for index in range(shape[1]):
            failed = prompt * shape[1] + index < cell.unscored.get(evaluator, 0)
            tag = {"tag": TAGS[prompt % len(TAGS)]} if suite == "geneval" and not failed else {}
            rows.append(
                {
                    "step": step, "evaluator": evaluator, "suite": suite,
                    "prompt_id": f"{suite}-{prompt:05d}", "prompt": "a photo", "image_index": index,
                    "sample_id": f"{suite}-{prompt:05d}/{index:04d}",
                    "value": float("nan") if failed else float(values[prompt, index]),
                    "reason": "unreadable" if failed else None, "details": json.dumps(tag),
                    "fingerprint": f"{cell.fingerprint}-{evaluator}",
                }
            )  # fmt: skip
    return rows


def _budget(cell: Folder, step: int) -> dict[str, float]:
    evaluations = {"sft": 1, "soar": 9, "flow_grpo": 30}.get(cell.method, 1)
    return {
        "optimizer_steps": step,
        "images_seen": 32 * step,
        "forward_equivalents": 32 * step * evaluations,
        "reward_calls": 16 * step if cell.method == "flow_grpo" else 0,
        "seconds": 0.4 * step * evaluations,
    }


def _write_training(path: Path, cell: Folder) -> None:
    rows = [
        {"step": step, "key": key, "value": float(value)}
        for step in range(10, cell.steps[-1] + 1, 10)
        for key, value in {**_budget(cell, step), "train/loss": 1 / step}.items()
        if key != "optimizer_steps"
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values))


def table_file(root: Path, name: Table, key: str = "") -> Path:
    """Where a table of diagnostics lies in a cell's folder."""
    return root / "diagnostics" / f"{name}{key and '.'}{key}.parquet"


def image_file(root: Path, step: int, prompt_id: str, image_index: int) -> Path:
    """Where an image lies in a cell's folder."""
    return root / "images" / f"{step}" / prompt_id / f"{image_index:04d}.png"


@dataclass(frozen=True)
class FolderTables:
    """Tables of one simulated cell; see ``soarbench.store.tables.CellTables``."""

    root: Path

    def scores(self) -> pa.Table:
        return pq.read_table(self.root / "scores.parquet")

    def training(self) -> pa.Table | None:
        path = self.root / "training.parquet"
        return pq.read_table(path) if path.is_file() else None

    def probe(self, name: Table, key: str = "") -> pa.Table | None:
        path = table_file(self.root, name, key)
        return pq.read_table(path) if path.is_file() else None

    def protocols(self) -> dict[tuple[str, str], Facts]:
        path = self.root / "protocols.json"
        stored = read_json(path) if path.is_file() else {}
        return {tuple(name.split(".")): facts for name, facts in stored.items()}  # type: ignore[misc]

    def image_file(self, step: int, prompt_id: str, image_index: int) -> Path | None:
        path = image_file(self.root, step, prompt_id, image_index)
        return path if path.is_file() else None

    def strip(self, task: str, step: int) -> None:  # noqa: ARG002
        return

    def strip_prompts(self, task: str) -> dict[str, str]:  # noqa: ARG002
        return {}


def cells_of(grid_folder: Path) -> list[Cell]:
    """The cells that ``write_grid`` wrote."""
    return [_cell(path) for path in sorted((grid_folder / "cells").iterdir())]


def _cell(root: Path) -> Cell:
    status, launches = read_json(root / "status.json"), root / "launches.json"
    stored = read_json(launches)["launches"] if launches.is_file() else []
    assert isinstance(stored, list)
    return Cell(
        tables=FolderTables(root),
        description=read_json(root / "config.json"),
        launches=tuple(launch_of(launch) for launch in stored),
        **status,  # type: ignore[arg-type]
    )


def publish(grid_folder: Path, output_dir: Path, grid: str = "reward_specific") -> Path:
    """Export the cells that ``write_grid`` wrote, so that commands find them; the new folder."""
    write_export(
        output_dir / grid, Manifest(grid=grid, baseline="sft"), cells_of(grid_folder), [], {}
    )
    return output_dir / grid


def write_scored(
    folder: Path,
    judge: str,
    values: np.ndarray,
    *,
    facts: Mapping[str, MetricFacts] = FACTS,
    **protocol: object,
) -> Path:
    """What ``score`` leaves of one judge's scores of two images a prompt; the output folder."""
    suite, scored = SCALES[judge][2], ScoresFolder(folder / judge)
    judged = {"prompts": "abc", "evaluator": judge, "evaluator_version": "1", **protocol}
    scored.write_protocol(judged, vars(facts[judge]))
    scored.rows.append(
        [
            {
                "prompt_id": f"{suite}-{index // 2:05d}", "prompt": "a photo",
                "image_index": index % 2, "sample_id": f"{index // 2:05d}/{index % 2:04d}",
                "image_sha256": "0", "value": float(value),
                "reason": "dark" if np.isnan(value) else None,
                "details": json.dumps({"tag": TAGS[index // 2 % 6]}),
                "fingerprint": fingerprint(judged),
            }
            for index, value in enumerate(values)
        ]
    )  # fmt: skip
    scored.rows.finish([])
    summary = {"suite": suite, "scores": judge, "extent": None}
    _write_json(folder / "summary.json", {"judges": {judge: summary}, "skipped": {}})
    return folder


def read_cells(grid_folder: Path) -> tuple[list[Cell], list[Hole]]:
    """Finished cells, and what the others leave open."""
    return finished_and_holes(cells_of(grid_folder), str(grid_folder))


def build_report(
    grid_folder: Path,
    results: Path,
    *,
    grid: str,
    baseline: str = "sft",
    show_published: bool = False,
    checkpoint_rule: str = LAST,
    formats: Sequence[str] = (),
    options: ReportOptions | None = None,
) -> build.Report:
    """A report of the cells that ``write_grid`` wrote; figures take longer than all the rest."""
    source = GridCells(
        grid=grid,
        folder=grid_folder,
        results_dir=results,
        cells=tuple(cells_of(grid_folder)),
        baseline=baseline,
        show_published=show_published,
        checkpoint_rule=checkpoint_rule,
        formats=tuple(formats),
    )
    return build.build_report(source, options)
