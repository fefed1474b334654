"""What a reward is, what is checked of its answer, and that a weighted sum of rewards is one.

The convention is TRL's, with images for completions, so that a user's function plugs in unchanged.
"""

# Imports no framework: a misspelt path is reported before anything heavy is loaded.
from __future__ import annotations

import math
import statistics
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

from evaluators.base import SERVER
from evaluators.devices import torch_device
from evaluators.weights import EvaluatorError

if TYPE_CHECKING:
    import torch
    from PIL import Image


class RewardError(ValueError):
    """A reward that cannot be used or trusted; says which, what and how to put it right."""


class RewardFunction(Protocol):
    """Scores images; higher is better."""

    def __call__(
        self, *, prompts: Sequence[str], images: Sequence[Image.Image], **columns: Sequence[object]
    ) -> Sequence[float]:
        """One number an image, in order; ``columns`` are the data set's other columns."""


ImagesReward = Callable[[Sequence[str], Any, Mapping[str, Sequence[object]]], Sequence[float]]
"""What a rollout asks: ``reward(prompts, images, columns)``, one number a row."""


def reward_name(reward: object) -> str:
    """What to call a reward in messages and metrics."""
    names = (getattr(reward, attribute, None) for attribute in ("name", "__name__"))
    return next((name for name in names if isinstance(name, str)), type(reward).__name__)


def checked_rewards(name: str, values: object, count: int) -> list[float]:
    """What a reward returned for ``count`` images, as floats.

    ``RewardError`` where that is no sequence of numbers, one an image, all of them finite.
    """
    # A tensor or an array becomes numbers of Python; a list may still hold scalars of theirs.
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RewardError(
            f"reward {name!r} returned {type(values).__name__}: return a list of floats, one an "
            "image"
        )
    if len(values) != count:
        raise RewardError(
            f"reward {name!r} returned {len(values)} values for {count} images: "
            "return one an image, in their order"
        )
    for index, value in enumerate(values):
        number = value.item() if hasattr(value, "item") else value
        # None or nan for a failed image is not replaced here: what it is worth is the reward's say.
        if not isinstance(number, Real) or not math.isfinite(number):
            raise RewardError(
                f"reward {name!r} returned {value!r} for image {index} of {count}: return a finite "
                "number for every image, for a failed one the value that you mean it to have"
            )
    return [float(value) for value in values]


def score_images(
    reward: RewardFunction,
    prompts: Sequence[str],
    images: Sequence[Image.Image],
    columns: Mapping[str, Sequence[object]],
) -> list[float]:
    """Call a reward and hold its answer to the convention, as ``checked_rewards`` does."""
    try:
        values = reward(prompts=prompts, images=images, **columns)
    except SystemExit as err:
        # It would end the whole grid, without a word.
        raise RewardError(
            f"reward {reward_name(reward)!r} called sys.exit({err.code}): raise an error instead"
        ) from err
    return checked_rewards(reward_name(reward), values, len(images))


def tried_reward(
    reward: RewardFunction,
    prompts: Sequence[str],
    images: Sequence[Image.Image],
    columns: Mapping[str, Sequence[object]],
) -> list[float]:
    """``score_images``; ``RewardError`` whatever a user's function raises."""
    try:
        return score_images(reward, prompts, images, columns)
    except (RewardError, EvaluatorError):
        raise
    except Exception as err:
        place = traceback.extract_tb(err.__traceback__)[-1]
        raise RewardError(
            f"reward {reward_name(reward)!r} raised {type(err).__name__}: {err} "
            f"({place.filename}:{place.lineno}); it takes keywords: prompts, images, "
            f"{', '.join(columns)}"
        ) from err


def refusal(reward: object, prompt: str, columns: Mapping[str, object]) -> str:
    """Why a reward cannot judge images of a prompt; empty where it can, or does not say.

    A reward says so by a method ``check(prompt, columns)`` that raises ``ValueError``.
    """
    check = getattr(reward, "check", None)
    if check is None:
        return ""
    try:
        check(prompt, columns)
    except ValueError as err:
        return str(err)
    return ""


def runs_elsewhere(reward: object, device: torch.device) -> bool:
    """Whether a reward computes on another device than the model's, or in another process.

    A reward says so by an attribute ``runs_on``: a torch device, or ``server``. ``RewardError``
    where it is neither; a reward without one counts as on the model's.
    """
    if isinstance(reward, Mixture):
        return all(runs_elsewhere(part, device) for part in reward.rewards.values())
    place = getattr(reward, "runs_on", None)
    if place is None or place == SERVER:
        return place == SERVER
    try:
        own = torch_device(place)
    except (RuntimeError, TypeError) as err:
        raise RewardError(
            f"reward {reward_name(reward)!r} says runs_on={place!r}: name a torch device, e.g. "
            f"'cpu' or 'cuda:1', or {SERVER!r}"
        ) from err
    # A GPU without a number is the process's own.
    is_other_index = None not in (own.index, device.index) and own.index != device.index
    return own.type != device.type or is_other_index


class Mixture:
    """``sum of weight * reward``; each part is checked under its own name.

    Each has a finite weight, and not all are 0, or ``RewardError``; negative ones penalise. Rewards
    are divided by their ``scales``; without them the weights have to balance their units.
    """

    def __init__(
        self,
        rewards: Mapping[str, RewardFunction],
        weights: Mapping[str, float],
        scales: Mapping[str, float] | None = None,
    ) -> None:
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
        self.factors = {name: weights[name] / (scales or {}).get(name, 1.0) for name in weights}
        self.name = " + ".join(f"{weight:g} {name}" for name, weight in weights.items())

    def __call__(
        self, *, prompts: Sequence[str], images: Sequence[Image.Image], **columns: Sequence[object]
    ) -> list[float]:
        """Weighted sum, one an image."""
        # A part that cannot judge a prompt (an OCR reward without a text to read) adds nothing to
        # its images: advantages are taken within a prompt's group, so that shifts none of them.
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
                totals[i] += self.factors[name] * value
        return totals

    def check(self, prompt: str, columns: Mapping[str, object]) -> None:
        """``ValueError``, which says what each lacks, where no part can judge a prompt's images."""
        refused = {name: refusal(reward, prompt, columns) for name, reward in self.rewards.items()}
        if all(refused.values()):
            raise ValueError("; ".join(f"{name}: {why}" for name, why in refused.items()))


def spread(name: str, values: Sequence[float]) -> float:
    """Standard deviation of a reward over images, by which it is scaled.

    ``RewardError`` where there is none, or it is the same for all of them.
    """
    deviation = statistics.pstdev(values) if values else 0.0
    if deviation == 0:
        raise RewardError(
            f"reward {name!r} gives {len(values)} images of the base {sorted(set(values))}: it has "
            "no spread to be divided by; set reward_scale=own"
        )
    return deviation
