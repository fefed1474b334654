"""Follows trained models along real images that they were not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.flow import draw_noise
from baselines.loop.stream import RowSource
from soarbench.diagnostics.measured import Measured
from soarbench.diagnostics.settings import NOISE_SEED, NORM_LEVELS, NUM_PROBES, STARTS
from soarbench.diagnostics.trajectories import path_deviation, velocity_norm
from soarbench.models.base import ImageModel


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
    generators = [torch.Generator().manual_seed(NOISE_SEED + index) for index in range(count)]
    condition = {
        name: torch.stack([row["condition"][name] for row in chosen]).to(device)
        for name in chosen[0]["condition"]
    }
    negative = {
        name: value.expand(count, *value.shape[1:]).to(device)
        for name, value in model.encode_prompts([""]).items()
    }
    return Probes(x0, draw_noise(x0.shape[1:], generators, device), condition, negative)


def measure(
    model: ImageModel,
    probes: Probes,
    *,
    batch_size: int,
    num_inference_steps: int,
    guidance_scale: float,
    with_paths: bool,
) -> Measured:
    """Measure a model on probes.

    Args:
        model: With the weights of a step.
        probes: From ``make_probes``.
        batch_size: Images at once.
        num_inference_steps: Of the sampler whose grid is followed.
        guidance_scale: As for sampling.
        with_paths: Whether paths are followed, too; they take as long as sampling.
    """
    velocity = model.velocity()
    batches = list(probes.batches(batch_size))
    norms = torch.cat(
        [velocity_norm(velocity, p.x0, p.noise, NORM_LEVELS, p.condition) for p in batches]
    )
    paths: list[Mapping[str, float]] = []
    if with_paths:
        grid = model.sampling_sigmas(num_inference_steps)
        for start in STARTS:
            paths += _paths(model, batches, start, grid, guidance_scale)
    rows = [{"row": row, "norm": norm} for row, norm in enumerate(norms.tolist())]
    return Measured(norms=rows, paths=paths)


def _paths(
    model: ImageModel, batches: Sequence[Probes], start: float, grid: Tensor, guidance_scale: float
) -> Iterator[dict[str, float]]:
    """The sampler's own grid, from a start on."""
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
                guidance_scale,
            )
            for probes in batches
        ]
    )
    for row, values in enumerate(deviations.tolist()):
        for index, (sigma, value) in enumerate(zip(sigmas.tolist(), values, strict=True)):
            yield {"row": row, "start": start, "index": index, "sigma": sigma, "deviation": value}
