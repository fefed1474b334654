"""Writes stores of many cells quickly; run as a script it measures a report of one, as JSON.

``python -m tests.report.big_store FOLDER [CELLS]``
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from soarbench.common.provenance import STORE_VERSION
from soarbench.store.cells import Cell
from soarbench.store.exports import Manifest, write_export
from soarbench.store.tables import Facts
from tests.report.folders import FACTS, TAGS, FolderTables, data_key, stored_facts

METHODS = ("sft", "soar", "flow_grpo")
TASKS = ("general", "colours", "counting")


def write_big_store(
    output_dir: Path, *, num_cells: int, num_prompts: int = 553, images_per_prompt: int = 4
) -> Path:
    """Export the base and ``num_cells - 1`` trained cells of binary verdicts, with details."""
    rng = np.random.default_rng(0)
    shape = (num_prompts, images_per_prompt)
    common = rng.normal(size=(num_prompts, 1)) + 0.5 * rng.normal(size=shape)
    fixed = _fixed_columns(*shape)
    cells = [_cell("base", "base", 0, fixed, common > -0.25)]
    for index in range(num_cells - 1):
        method, task = METHODS[index % 3], TASKS[index // 3 % 3]
        gain = 0.1 * METHODS.index(method)
        latent = common + 0.5 * rng.normal(size=shape) + gain + 0.05 * rng.normal()
        cells.append(_cell(method, task, index // 9, fixed, latent > -0.25))
    write_export(output_dir / "big", Manifest(grid="big", baseline="sft"), cells, [], {})
    return output_dir / "big"


def _fixed_columns(num_prompts: int, images_per_prompt: int) -> dict[str, pa.Array]:
    prompts = np.repeat(np.arange(num_prompts), images_per_prompt)
    images = np.tile(np.arange(images_per_prompt), num_prompts)
    details = [json.dumps({"tag": TAGS[prompt % len(TAGS)]}) for prompt in prompts]
    return {
        "evaluator": pa.array(["geneval"] * prompts.size),
        "suite": pa.array(["geneval"] * prompts.size),
        "prompt_id": pa.array([f"{prompt:05d}" for prompt in prompts]),
        "prompt": pa.array([f"a photo of prompt {prompt}" for prompt in prompts]),
        "image_index": pa.array(images),
        "reason": pa.nulls(prompts.size, pa.string()),
        "details": pa.array(details),
        "fingerprint": pa.array(["f00d"] * prompts.size),
    }


@dataclass(frozen=True)
class BigTables(FolderTables):
    """Of one cell, in memory."""

    verdicts: pa.Table
    log: pa.Table | None

    def scores(self) -> pa.Table:
        return self.verdicts

    def training(self) -> pa.Table | None:
        return self.log

    def protocols(self) -> dict[tuple[str, str], Facts]:
        return {("geneval", "geneval"): stored_facts(FACTS["geneval"])}


def _cell(
    method: str, task: str, seed: int, fixed: dict[str, pa.Array], verdicts: np.ndarray
) -> Cell:
    words = method if task == "base" else f"{method}-{task}"
    cell_id, step = f"{words}-seed{seed}-0123456789ab", 0 if task == "base" else 100
    description = {
        "version": STORE_VERSION, "cell_id": cell_id, "grid": "big", "task": task, "method": method,
        "seed": seed, "steps": [step], "final_metric": None if task == "base" else "geneval",
        "metrics": ["geneval"], "data_key": None if task == "base" else data_key(task),
        "paths": {}, "config": {"seed": seed, "method_name": method},
    }  # fmt: skip
    cost = 1 + METHODS.index(method) if method in METHODS else 0
    spent = {"images_seen": 3200.0, "forward_equivalents": 9600.0 * cost}
    budget = {} if task == "base" else {"optimizer_steps": 100.0, **spent, "seconds": 60.0}
    values = verdicts.astype(float).ravel()
    table = {"step": pa.array(np.full(values.size, step)), "value": pa.array(values), **fixed}
    keys = list(budget)[1:]
    log = {"step": [100] * len(keys), "key": keys, "value": [budget[key] for key in keys]}
    return Cell(
        tables=BigTables(Path(), pa.table(table), pa.table(log) if keys else None),
        description=description,
        state="finished",
        mlflow_run_id=f"run-{cell_id}",
        budget=budget,
    )


def measured(output_dir: Path, results: Path) -> dict[str, float]:
    """What a report of a store takes, for a process that has done nothing else before.

    -> seconds, seconds of the processor, the most MiB that importing and reporting held, and how
    much of it the report added; cells and bytes of the page.
    """
    from soarbench.report.build import build_report
    from soarbench.report.source import grid_cells

    imported, start, before = _peak_mib(), time.monotonic(), time.process_time()
    # PDF's fonts take as long for one cell as for a thousand, and longer than all else.
    places = [f"output_dir={output_dir}", f"results_dir={results}"]
    report = build_report(grid_cells([*places, "figure_formats=[png]"]))
    return {
        "cells": len(report.cells),
        "is_partial": bool(report.gaps),
        "seconds": time.monotonic() - start,
        "processor_seconds": time.process_time() - before,
        "peak_mib": _peak_mib(),
        "report_mib": _peak_mib() - imported,
        "page_bytes": (report.folder / "index.html").stat().st_size,
    }


def _peak_mib() -> float:
    """The most memory that this program held at once; it never falls."""
    # ru_maxrss would begin with what the process that started this one held.
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Write a store where there is none, report it, and say what that took, as JSON."""
    folder = Path(sys.argv[1])
    if not (folder / "runs").is_dir():
        write_big_store(folder / "runs", num_cells=int((*sys.argv[2:], "1000")[0]))
    sys.stdout.write(json.dumps(measured(folder / "runs", folder / "results")) + "\n")


if __name__ == "__main__":
    main()
