"""A short grid of the laboratory on a device and on the CPU, score by score."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from soarbench.benchmarks.gpu.training import Report
from soarbench.common.errors import UserError
from soarbench.planning.memory_and_time import Demand, Gpu

#: Four small updates of each method, eight images: what differs is rounding, and what it grows to.
WORDS = (
    "grid=reward_specific",
    "grid.tasks=[aesthetic]",
    "budget.steps=4",
    "budget.save_steps=4",
    "budget.num_snapshots=1",
    "budget.cost_shares=[]",
    "budget.max_prompts=4",
    "budget.images_per_prompt=2",
    "training.batch_size=8",
    "method.group_size=4",
    "data.num_candidates=200",
    "tracking=none",
    "diagnostics=false",
    "figure_formats=[png]",
)


#: What a whole run imports and the other measurements do not: too large for a bundle.
PACKAGES = ("matplotlib", "pandas", "pyarrow", "scipy")


def measure_laboratory(
    _demand: Demand, device: torch.device, _gpu: Gpu | None, report: Report
) -> None:
    """Scores of every method here and on the CPU, and the largest difference.

    ``UserError`` where a package of a whole run is not installed.
    """
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise UserError(f"a whole run needs {', '.join(lacking)}: pip install {' '.join(lacking)}")
    scores_on = partial(grid_scores, WORDS)
    # Beside each other: one waits for the GPU, the other computes.
    with ThreadPoolExecutor(2) as pool:
        here, there = pool.map(scores_on, (str(device), "cpu"))
    for name, value in here.items():
        report({f"{name}, {device.type}": value, f"{name}, cpu": there[name]})
    largest = max(abs(value - there[name]) for name, value in here.items())
    report({"largest difference of a score": largest})


def grid_scores(words: tuple[str, ...], device: str) -> Mapping[str, float]:
    """Run a grid and read its table; ``UserError`` where it fails."""
    with tempfile.TemporaryDirectory() as name:
        folders = (f"output_dir={name}/runs", f"results_dir={name}/results")
        command = [sys.executable, "-m", "soarbench", "run", *words, *folders, f"device={device}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise UserError(f"the grid on {device} failed: {' '.join(last)}")
        (table,) = Path(name, "results").rglob("table.csv")
        with table.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    return {f"{row['method']} {row['metric']}": float(row["value"]) for row in rows}
