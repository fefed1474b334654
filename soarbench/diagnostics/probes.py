"""Follows trained models along real images that they were not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from baselines.base import Batch
from baselines.flow import draw_noise
from baselines.loop.stream import Row, RowSource, stack_rows
from soarbench.diagnostics.measured import Measured
from soarbench.diagnostics.settings import NOISE_SEED, NORM_LEVELS, NUM_PROBES, STARTS
from soarbench.diagnostics.trajectories import path_deviation, velocity_norm
from soarbench.models.base import ImageModel


def make_probes(rows: RowSource, model: ImageModel) -> Batch:
    """Evenly spaced rows with ``noise`` of their own, the same for every model and step."""
    count = min(NUM_PROBES, len(rows))
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    # A batch has one shape: of images of several, those that are like the first.
    batch = batch_of([row for row in chosen if row["x0"].shape == chosen[0]["x0"].shape], model)
    # A generator a row, so that a row's noise does not depend on how many there are.
    generators = [torch.Generator().manual_seed(NOISE_SEED + index) for index in batch.positions]
    return batch.with_tensors(noise=draw_noise(batch["x0"].shape[1:], generators, model.device))


def batch_of(rows: Sequence[Row], model: ImageModel) -> Batch:
    """Rows of one shape, with the empty prompt's condition, where the model is."""
    batch = stack_rows(list(enumerate(rows)))
    negative = {
        name: value.expand(len(rows), *value.shape[1:])
        for name, value in model.encode_prompts([""]).items()
    }
    return replace(batch, negative_condition=negative).to(model.device)


def measure(
    model: ImageModel,
    probes: Batch,
    *,
    batch_size: int,
    num_inference_steps: int,
    guidance_scale: float,
    with_paths: bool,
) -> Measured:
    """Measure a model, with the weights of a step, on what ``make_probes`` gave.

    Paths take as long as sampling, whose steps and guidance they have.
    """
    velocity = model.velocity()
    norms = torch.cat(
        [
            velocity_norm(velocity, part["x0"], part["noise"], NORM_LEVELS, part.condition)
            for part in _parts(probes, batch_size)
        ]
    )
    paths: list[Mapping[str, float]] = []
    grid = model.sampling_sigmas(num_inference_steps)
    for start in STARTS if with_paths else ():
        # On the sampler's own levels: the deviation of another grid would be another sampler's.
        sigmas = grid[int((grid - start).abs().argmin()) :]
        deviations = [
            path_deviation(
                velocity,
                part["x0"],
                part["noise"],
                sigmas,
                part.condition,
                part.negative_condition,
                guidance_scale,
            )
            for part in _parts(probes, batch_size)
        ]
        paths += _path_rows(start, sigmas, torch.cat(deviations))
    rows = [{"row": row, "norm": norm} for row, norm in enumerate(norms.tolist())]
    return Measured(norms=rows, paths=paths)


def _parts(probes: Batch, size: int) -> Iterator[Batch]:
    """At most ``size`` rows at once: as many as sampling has memory for."""
    for start in range(0, len(probes), size):
        yield probes.select(range(start, min(start + size, len(probes))))


def _path_rows(start: float, sigmas: Tensor, deviations: Tensor) -> Iterator[dict[str, float]]:
    for row, values in enumerate(deviations.tolist()):
        for index, (sigma, value) in enumerate(zip(sigmas.tolist(), values, strict=True)):
            yield {"row": row, "start": start, "index": index, "sigma": sigma, "deviation": value}
