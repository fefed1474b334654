"""Follows trained models along real images that they were not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from baselines.flow import draw_noise
from baselines.loop.stream import RowSource
from soarbench.common.files import write_atomically
from soarbench.config.settings import CellConfig
from soarbench.diagnostics.trajectories import path_deviation, velocity_norm
from soarbench.jobs.workbench import Workbench
from soarbench.models.base import ImageModel
from soarbench.store.cell_folder import CellFolder
from soarbench.store.diagnostics import deviations_path, norms_path, source_key

#: Real images whose paths are followed.
NUM_PROBES = 32
#: Levels at which the path is left: pure noise, and two where the image is partly decided.
STARTS = (1.0, 0.75, 0.5)
#: Levels at which the norm of the velocity is taken.
NORM_LEVELS = (0.25, 0.5, 0.75)
_NOISE_SEED = 2604


@dataclass(frozen=True)
class Probes:
    """Real images, the noise at the other end of their paths, and what describes them."""

    x0: Tensor
    noise: Tensor
    condition: dict[str, Tensor]
    negative_condition: dict[str, Tensor]

    def batches(self, size: int) -> Iterator[Probes]:
        """The same, at most ``size`` at once: as many as sampling has memory for."""
        for start in range(0, len(self.x0), size):
            part = slice(start, start + size)
            yield Probes(
                self.x0[part],
                self.noise[part],
                {name: value[part] for name, value in self.condition.items()},
                {name: value[part] for name, value in self.negative_condition.items()},
            )


def held_out_data(cell: CellConfig) -> CellConfig:
    """The cell with data that training did not see, where such data can be had."""
    data = None if cell.data is None else cell.data.held_out(NUM_PROBES)
    return dataclasses.replace(cell, data=data)


def make_probes(rows: RowSource, model: ImageModel) -> Probes:
    """Evenly spaced rows with noise of their own, the same for every model and step.

    Of images of several shapes those that are like the first.
    """
    count = min(NUM_PROBES, len(rows))
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    chosen = [row for row in chosen if row["x0"].shape == chosen[0]["x0"].shape]
    count = len(chosen)
    device = model.device
    x0 = torch.stack([row["x0"] for row in chosen]).to(device)
    generators = [torch.Generator().manual_seed(_NOISE_SEED + index) for index in range(count)]
    condition = {
        name: torch.stack([row["condition"][name] for row in chosen]).to(device)
        for name in chosen[0]["condition"]
    }
    negative = {
        name: value.expand(count, *value.shape[1:]).to(device)
        for name, value in model.encode_prompts([""]).items()
    }
    return Probes(x0, draw_noise(x0.shape[1:], generators, device), condition, negative)


def probe(
    cell: CellConfig, source: CellConfig, folder: CellFolder, bench: Workbench
) -> Iterator[int]:
    """Measure a cell on a task's data; yields every step that was measured.

    Args:
        cell: A finished one.
        source: The trained cell whose data is used: itself, but for the base.
        folder: Files of ``cell``.
        bench: Loads weights and data.
    """
    key = source_key(source)
    norms = []
    for step in cell.steps:
        model = bench.model_at(cell, folder, step)
        probes = make_probes(bench.training_rows(held_out_data(source), model), model)
        velocity = model.velocity()
        batches = list(probes.batches(cell.sampling.batch_size))
        values = torch.cat(
            [velocity_norm(velocity, p.x0, p.noise, NORM_LEVELS, p.condition) for p in batches]
        )
        norms += [
            {"step": step, "row": row, "norm": norm} for row, norm in enumerate(values.tolist())
        ]
        if step == cell.steps[-1]:
            table = pa.Table.from_pylist(list(_deviations(cell, model, batches, step)))
            _store(deviations_path(folder.root, key), table)
        yield step
    _store(norms_path(folder.root, key), pa.Table.from_pylist(norms))


def _deviations(
    cell: CellConfig, model: ImageModel, batches: Sequence[Probes], step: int
) -> Iterator[dict[str, float]]:
    """Rows of ``files.deviations_path``: the sampler's own grid, from each start on."""
    grid = model.sampling_sigmas(cell.sampling.num_inference_steps)
    for start in STARTS:
        sigmas = grid[int((grid - start).abs().argmin()) :]
        deviations = torch.cat(
            [
                path_deviation(
                    model.velocity(),
                    probes.x0,
                    probes.noise,
                    sigmas,
                    probes.condition,
                    probes.negative_condition,
                    cell.sampling.guidance_scale,
                )
                for probes in batches
            ]
        )
        for row, values in enumerate(deviations.tolist()):
            for index, (sigma, value) in enumerate(zip(sigmas.tolist(), values, strict=True)):
                where = {"step": step, "row": row, "start": start, "index": index}
                yield where | {"sigma": sigma, "deviation": value}


def _store(path: Path, table: pa.Table) -> None:
    write_atomically(path, lambda partial: pq.write_table(table, partial))
