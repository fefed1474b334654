"""Adds to simulated run folders what diagnosing and sampling leave: known numbers, tiny images."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.report.folders import SCALES, Folder, data_key, image_file, table_file

NUM_IMAGES = 12
LEVELS = {0.75: 0.74, 0.5: 0.52}
MEASURES = ("on_path", "off_path", "contraction_random", "contraction_drift", "own_states")


def strength(cell: Folder, step: int) -> float:
    """How far a cell is from the base: 0 for the base, up to 1 for Flow-GRPO's end."""
    most = {"base": 0.0, "sft": 0.3, "soar": 0.2}.get(cell.method, 1.0)
    return most * step / cell.steps[-1] if step else 0.0


def write_diagnostics(grid_folder: Path, cell: Folder, tasks: tuple[str, ...]) -> None:
    """Write all diagnostics of a cell, on the data of ``tasks``.

    Brightness of prompt p is 0.4 + p / 1000 + strength / 10, diversity 0.3 - strength / 10 and the
    Vendi score 1.5 + p / 100 - strength / 10; the velocity norm of image r is
    (1 + r / 10) (1 + strength / 20); every measure of exposure bias of image r is
    (r - 2) / 10 - level strength (1 + r / 100) of training seed 0, less by 0.01 of each other one.
    """
    root = grid_folder / "cells" / cell.cell_id
    table_file(root, "images").parent.mkdir()
    pq.write_table(pa.Table.from_pylist(_image_rows(cell)), table_file(root, "images"))
    for task in tasks:
        norms = [
            {
                "step": step, "row": row,
                "norm": (1 + row / 10) * (1 + strength(cell, step) / 20),
            }
            for step in cell.steps for row in range(NUM_IMAGES)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(norms), table_file(root, "norms", data_key(task)))
        last = cell.steps[-1]
        exposure = [
            {
                "step": last, "row": row, "measure": measure, "level": level, "sigma": sigma,
                "value": (row - 2) / 10
                - (level * strength(cell, last) * (1 + row / 100) + cell.seed / 100),
            }
            for measure in MEASURES for level, sigma in LEVELS.items() for row in range(NUM_IMAGES)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(exposure), table_file(root, "exposure", data_key(task)))


def _image_rows(cell: Folder) -> list[dict[str, object]]:
    suites = sorted({SCALES[name][2] for name in cell.metrics})
    return [
        {
            "step": step, "suite": suite, "prompt_id": f"{suite}-{prompt:05d}",
            "image_index": index, "entropy": 5.0 + strength(cell, step),
            "edge_density": 0.05, "saturation": 0.2,
            "brightness": 0.4 + prompt / 1000 + strength(cell, step) / 10,
            "diversity": 0.3 - strength(cell, step) / 10,
            "lpips": 0.5, "vendi": 1.5 + prompt / 100 - strength(cell, step) / 10,
        }
        for step in cell.steps for suite in suites
        for prompt in range(cell.num_prompts) for index in range(cell.images_per_prompt)
    ]  # fmt: skip


def write_images(grid_folder: Path, cell: Folder) -> None:
    """Write an 8 x 8 image of one colour for every prompt's first image."""
    root = grid_folder / "cells" / cell.cell_id
    for step in cell.steps:
        for suite in sorted({SCALES[name][2] for name in cell.metrics}):
            for prompt in range(cell.num_prompts):
                path = image_file(root, step, f"{suite}-{prompt:05d}", 0)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), color_of(cell.method, step, prompt)).save(path)


def color_of(method: str, step: int, prompt: int) -> tuple[int, int, int]:
    """The colour of an image, other for every method, step and prompt."""
    seed = zlib.crc32(f"{method} {step} {prompt}".encode())
    red, green, blue = np.random.default_rng(seed).integers(0, 256, 3).tolist()
    return red, green, blue
