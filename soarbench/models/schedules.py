"""Noise levels that depend on an image's size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from typing_extensions import override

from baselines.schedule import ShiftedSchedule


def evenly(num_inference_steps: int) -> list[float]:
    """From 1 to one step above 0."""
    levels: list[float] = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
    return levels


@dataclass(frozen=True)
class SizedShift(ShiftedSchedule):
    """Levels of a pipeline's scheduler, whose shift follows from tokens and steps.

    Args:
        scheduler: The pipeline's.
        mu: The scheduler's parameter at so many tokens of an image and steps.
        patch: Latents along the side of a token.
        training_steps: Steps of sampling whose shift training has: no recipe is published.
        levels: Levels of so many steps before the shift.
    """

    scheduler: FlowMatchEulerDiscreteScheduler
    mu: Callable[[int, int], float]
    patch: int
    training_steps: int
    levels: Callable[[int], Sequence[float]] = evenly

    def _mu(self, shape: Sequence[int], num_inference_steps: int) -> float:
        height, width = shape[-2:]
        return self.mu((height // self.patch) * (width // self.patch), num_inference_steps)

    @override
    def shift(self, shape: Sequence[int]) -> float:
        config = self.scheduler.config
        if not config.use_dynamic_shifting:
            return float(config.shift)
        mu = self._mu(shape, self.training_steps)
        return math.exp(mu) if config.time_shift_type == "exponential" else mu

    @override
    def sampling_sigmas(self, num_inference_steps: int, shape: Sequence[int]) -> Tensor:
        levels, mu = self.levels(num_inference_steps), self._mu(shape, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=list(levels), mu=mu)
        sigmas: Tensor = self.scheduler.sigmas.clone()
        return sigmas
