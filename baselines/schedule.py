"""Noise levels of a model: where it is trained, and which ones sampling visits."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from baselines.flow import sampling_sigmas, training_grid, training_sigmas


class Schedule(abc.ABC):
    """What a method asks of noise levels, which may depend on the size of the image.

    Shapes are of one row's latents, e.g. (16, 64, 64).
    """

    @abc.abstractmethod
    def shift(self, shape: Sequence[int]) -> float:
        """How far levels of training lean to noise; SD3.5-M: 3.0, and 1 is not at all."""

    @abc.abstractmethod
    def sampling_sigmas(self, num_inference_steps: int, shape: Sequence[int]) -> Tensor:
        """Levels that sampling visits, from 1 (noise) to 0. -> (num_inference_steps + 1,)."""

    def training_sigmas(self, t: Tensor, shape: Sequence[int]) -> Tensor:
        """Levels of training times (B,), 1 = noise. -> (B,), in (0, 1]."""
        return training_sigmas(t, self.shift(shape))

    def sigma_max(self, shape: Sequence[int]) -> float:
        """Second level of training's grid, whose first, 1, is a pole of ``stochastic_step``."""
        return training_grid(self.shift(shape))[1].item()


@dataclass(frozen=True)
class StaticShift(Schedule):
    """The same levels for every size, as SD3's ``FlowMatchEulerDiscreteScheduler`` has them.

    Args:
        value: The shift.
    """

    value: float

    @override
    def shift(self, shape: Sequence[int]) -> float:
        return self.value

    @override
    def sampling_sigmas(self, num_inference_steps: int, shape: Sequence[int]) -> Tensor:
        return sampling_sigmas(num_inference_steps, self.value)
