"""Schedules whose levels are shifted towards noise."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from baselines.flow import sampling_sigmas, training_grid, training_sigmas


class ShiftedSchedule(abc.ABC):
    """A ``Schedule`` that is trained on the grid of its shift."""

    @abc.abstractmethod
    def shift(self, shape: Sequence[int]) -> float:
        """As of any ``Schedule``."""

    @abc.abstractmethod
    def sampling_sigmas(self, num_inference_steps: int, shape: Sequence[int]) -> Tensor:
        """As of any ``Schedule``."""

    def training_sigmas(self, t: Tensor, shape: Sequence[int]) -> Tensor:
        """As of any ``Schedule``."""
        return training_sigmas(t, self.shift(shape))

    def sigma_max(self, shape: Sequence[int]) -> float:
        """As of any ``Schedule``."""
        return training_grid(self.shift(shape))[1].item()


@dataclass(frozen=True)
class StaticShift(ShiftedSchedule):
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
