"""A weighted sum of rewards is a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from baselines.rewards.base import RewardError, RewardFunction, checked_rewards

if TYPE_CHECKING:
    from PIL import Image


class Mixture:
    """``sum of weight * reward``; each part is checked under its own name.

    Args:
        rewards: The parts by name.
        weights: A finite weight for each name, not all 0; negative ones penalise. Rewards are not
            rescaled: the weights have to balance their units.

    Raises:
        RewardError: Names that do not match, or weights that are not as said.
    """

    def __init__(self, rewards: Mapping[str, RewardFunction], weights: Mapping[str, float]) -> None:
        unmatched = sorted(set(rewards) ^ set(weights))
        if unmatched:
            raise RewardError(
                f"mixture of rewards: {', '.join(unmatched)} has a weight without a reward, or a "
                "reward without a weight; name each in both"
            )
        for name, weight in weights.items():
            if not math.isfinite(weight):
                raise RewardError(f"weight {weight!r} of reward {name!r} must be a finite number")
        if not any(weights.values()):
            raise RewardError(f"mixture of rewards {dict(weights)}: give at least one weight but 0")
        self.rewards = dict(rewards)
        self.weights = dict(weights)
        self.name = " + ".join(f"{weight:g} {name}" for name, weight in weights.items())

    def __call__(
        self, *, prompts: Sequence[str], images: Sequence[Image.Image], **columns: Sequence[object]
    ) -> list[float]:
        """Weighted sum, one an image."""
        totals = [0.0] * len(images)
        for name, reward in self.rewards.items():
            values = reward(prompts=prompts, images=images, **columns)
            checked = checked_rewards(name, values, len(images))
            totals = [t + self.weights[name] * v for t, v in zip(totals, checked, strict=True)]
        return totals
