"""Follows models along real images, held-out ones where the data have any."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from baselines.base import Batch, VelocityModel
from baselines.flow import add_noise, draw_noise
from baselines.loop.stream import Row as DataRow
from baselines.loop.stream import RowSource, stack_rows
from evaluators.devices import on_device
from soarbench.diagnostics.exposure import (
    Sampler,
    contraction,
    energy_score,
    path_errors,
    scaled,
    velocity_norm,
)
from soarbench.diagnostics.measured import Row, States
from soarbench.diagnostics.settings import (
    DRIFT_STEPS,
    KICK,
    LEVELS,
    NOISE_SEED,
    NORM_LEVELS,
    NUM_NOISED,
    NUM_PROBES,
    NUM_SAMPLES,
)
from soarbench.models.base import ImageModel

# Of what a row draws beside its ``noise``.
_KICK, _SAMPLE, _NOISED = (NOISE_SEED + number * 1_000_000 for number in (1, 2, 3))


def make_probes(rows: RowSource, model: ImageModel) -> Batch:
    """Evenly spaced rows with ``noise`` and a ``kick`` of their own, the same for every model."""
    count = min(NUM_PROBES, len(rows))
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    # A batch has one shape: of images of several, those that are like the first.
    batch = batch_of([row for row in chosen if row["x0"].shape == chosen[0]["x0"].shape], model)
    # As evaluation reads them: methods that are compared may be trained on prompts cut at unlike
    # lengths (``training.max_sequence_length``).
    batch = replace(batch, condition=model.encode_prompts(batch.prompts))
    noise, kick = (_noise(batch, seed) for seed in (NOISE_SEED, _KICK))
    return batch.with_tensors(noise=noise, kick=scaled(kick, KICK))


def _noise(batch: Batch, seed: int) -> Tensor:
    # A generator a row, so that a row's noise does not depend on how many there are.
    generators = [torch.Generator().manual_seed(seed + index) for index in batch.positions]
    return draw_noise(batch["x0"].shape[1:], generators, batch["x0"].device)


def batch_of(rows: Sequence[DataRow], model: ImageModel) -> Batch:
    """Rows of one shape, with the empty prompt's condition, where the model is."""
    batch = stack_rows(list(enumerate(rows)))
    negative = {
        name: value.expand(len(rows), *value.shape[1:])
        for name, value in model.encode_prompts([""]).items()
    }
    return replace(batch, negative_condition=negative).to(model.device)


@dataclass(frozen=True, kw_only=True)
class Probing:
    """A model and the rows that it is asked about, ``batch_size`` at once.

    Attributes:
        rows: Of ``make_probes``.
        num_inference_steps: Of the sampler that states come from.
        guidance_scale: Of the same.
    """

    model: ImageModel
    rows: Batch
    batch_size: int
    num_inference_steps: int
    guidance_scale: float

    def norms(self) -> list[Row]:
        """RMS of the velocity; columns of ``ProbeFolder``'s ``norms``."""
        velocity = self.model.velocity()
        values = [
            velocity_norm(velocity, part["x0"], part["noise"], NORM_LEVELS, part.condition)
            for part in self._parts()
        ]
        return [{"row": i, "norm": norm} for i, norm in enumerate(torch.cat(values).tolist())]

    def drifted(self) -> States:
        """Where the model's own sampling leads in ``DRIFT_STEPS`` from the path, by level."""
        velocity, grid = self.model.velocity(), self._grid
        parts = [
            {level: self._drift(velocity, part, grid, i) for level, i in _places(grid).items()}
            for part in self._parts()
        ]
        return {level: _gathered([part[level] for part in parts]) for level in _places(grid)}

    def exposure(self, states: States) -> list[Row]:
        """All measures at every level; ``states`` are what the base's ``drifted`` gave."""
        velocity, grid = self.model.velocity(), self._grid
        places, values, start = _places(grid), dict[tuple[str, float], list[Tensor]](), 0
        for part in self._parts():
            common = {level: state[start : start + len(part)] for level, state in states.items()}
            start += len(part)
            measured = (
                self._asked(velocity, part, grid, common),
                self._kicked(velocity, part, grid),
                self._sampled(velocity, part, grid),
            )
            for key, value in itertools.chain(*(one.items() for one in measured)):
                values.setdefault(key, []).append(value.cpu())
        sigmas = {level: float(grid[place]) for level, place in places.items()}
        return list(_rows({key: torch.cat(parts) for key, parts in values.items()}, sigmas))

    def _asked(
        self, velocity: VelocityModel, part: Batch, grid: Tensor, states: States
    ) -> dict[tuple[str, float], Tensor]:
        """Errors on the path and off it."""
        x0, noise, device = part["x0"], part["noise"], part["x0"].device
        values: dict[tuple[str, float], Tensor] = {}
        for level, place in _places(grid).items():
            sigma = on_device(grid[place].expand(len(part)), device)
            state = on_device(torch.from_numpy(states[level]), device)
            values["on_path", level], values["off_path", level] = path_errors(
                velocity, x0, noise, state, sigma, part.condition
            )
        return values

    def _kicked(
        self, velocity: VelocityModel, part: Batch, grid: Tensor
    ) -> dict[tuple[str, float], Tensor]:
        """Contraction of a kick and of the model's own drift, at the lowest level."""
        # At 0.75 a kick may decide which image it becomes: what was left of it had a standard
        # deviation larger than its mean, between 48 images of the laboratory's base.
        places = _places(grid)
        if not places:
            return {}
        level = min(places)
        place = places[level]
        path = add_noise(part["x0"], part["noise"], grid[place])
        drift = scaled(self._drift(velocity, part, grid, place) - path, KICK)
        kicks = {"contraction_random": part["kick"], "contraction_drift": drift}
        ratios = contraction(
            self._sampler(velocity, part), path, tuple(kicks.values()), grid[place:]
        )
        return {(name, level): ratio for name, ratio in zip(kicks, ratios, strict=True)}

    def _sampled(
        self, velocity: VelocityModel, part: Batch, grid: Tensor
    ) -> dict[tuple[str, float], Tensor]:
        """States of sampling from noise beside noised images."""
        sampler, before = self._sampler(velocity, part), 0
        own = [_noise(part, _SAMPLE + number * NUM_PROBES) for number in range(NUM_SAMPLES)]
        fresh = [_noise(part, _NOISED + number * NUM_PROBES) for number in range(NUM_NOISED)]
        values = {}
        for level, place in _places(grid).items():
            # On from the level above.
            own = [sampler.follow(state, grid[before : place + 1]) for state in own]
            before = place
            data = [add_noise(part["x0"], noise, grid[place]) for noise in fresh]
            values["own_states", level] = energy_score(torch.stack(own), torch.stack(data))
        return values

    def _drift(self, velocity: VelocityModel, part: Batch, grid: Tensor, place: int) -> Tensor:
        """States at ``grid[place]``, that far from where they left the path."""
        sigmas = grid[max(place - DRIFT_STEPS, 0) : place + 1]
        left = add_noise(part["x0"], part["noise"], sigmas[0])
        return self._sampler(velocity, part).follow(left, sigmas)

    @property
    def _grid(self) -> Tensor:
        # The sampler's own levels: states of another grid would be another sampler's.
        return self.model.sampling_sigmas(self.num_inference_steps)

    def _sampler(self, velocity: VelocityModel, part: Batch) -> Sampler:
        return Sampler(
            velocity=velocity,
            condition=part.condition,
            negative_condition=part.negative_condition,
            guidance_scale=self.guidance_scale,
        )

    def _parts(self) -> Iterator[Batch]:
        """As many rows at once as sampling has memory for."""
        for start in range(0, len(self.rows), self.batch_size):
            yield self.rows.select(range(start, min(start + self.batch_size, len(self.rows))))


def _places(grid: Tensor) -> dict[float, int]:
    """Index in the sampler's levels of each of ``LEVELS``, falling; without those it lacks."""
    # Neither noise, where nothing has been sampled yet, nor the end, where nothing is left to be;
    # a sampler of few steps has one level near both.
    inner = grid[1:-1]
    places: dict[float, int] = {}
    for level in LEVELS if len(inner) else ():
        place = 1 + int((inner - level).abs().argmin())
        if place not in places.values():
            places[level] = place
    return places


def _gathered(parts: Sequence[Tensor]) -> np.ndarray:
    return torch.cat([part.float().cpu() for part in parts]).numpy()


def _rows(
    measured: Mapping[tuple[str, float], Tensor], sigmas: Mapping[float, float]
) -> Iterator[Row]:
    """Columns of ``ProbeFolder``'s ``exposure``."""
    for (measure, level), values in measured.items():
        for row, value in enumerate(values.tolist()):
            yield {
                "row": row,
                "measure": measure,
                "level": level,
                "sigma": sigmas[level],
                "value": value,
            }
