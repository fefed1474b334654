"""A weighted sum of rewards is a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from baselines.rewards.base import RewardError, RewardFunction, checked_rewards, refusal

if TYPE_CHECKING:
    from PIL import Image


class Mixture:
    """``sum of weight * reward``; each part is checked under its own name.

    A part that cannot judge a prompt (an OCR reward without a text to read) adds nothing to its
    images; since advantages are taken within a prompt's group, that shifts none of them.

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
            rows = [
                i
                for i, prompt in enumerate(prompts)
                if not refusal(reward, prompt, {key: c[i] for key, c in columns.items()})
            ]
            if not rows:
                continue
            values = reward(
                prompts=[prompts[i] for i in rows],
                images=[images[i] for i in rows],
                **{key: [column[i] for i in rows] for key, column in columns.items()},
            )
            for i, value in zip(rows, checked_rewards(name, values, len(rows)), strict=True):
                totals[i] += self.weights[name] * value
        return totals

    def check(self, prompt: str, columns: Mapping[str, object]) -> None:
        """Refuse a prompt that no part can judge images of.

        Args:
            prompt: What is asked for.
            columns: The prompt's other columns.

        Raises:
            ValueError: Says what each part lacks.
        """
        refused = {name: refusal(reward, prompt, columns) for name, reward in self.rewards.items()}
        if all(refused.values()):
            raise ValueError("; ".join(f"{name}: {why}" for name, why in refused.items()))
