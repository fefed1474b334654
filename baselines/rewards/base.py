"""What a reward is, how one is named in a configuration, and what is checked of its answer.

The convention is TRL's, with images for completions, so that a user's function plugs in unchanged.
Imports no framework: a misspelt path is reported before anything heavy is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class RewardError(ValueError):
    """A reward that cannot be used or trusted; says which, what and how to put it right."""


class RewardFunction(Protocol):
    """Scores images; higher is better."""

    def __call__(
        self, *, prompts: Sequence[str], images: Sequence[Image.Image], **columns: Sequence[object]
    ) -> Sequence[float]:
        """One number an image, in order; ``columns`` are the data set's other columns."""
        ...


LatentReward = Callable[[Sequence[str], "Tensor", Mapping[str, Sequence[object]]], Sequence[float]]
"""What a rollout asks: ``reward(prompts, latents at sigma 0, columns)``, one number a row."""


def reward_name(reward: object) -> str:
    """What to call a reward in messages and metrics."""
    for attribute in ("name", "__name__"):
        name = getattr(reward, attribute, None)
        if isinstance(name, str):
            return name
    return type(reward).__name__


def checked_rewards(name: str, values: object, count: int) -> list[float]:
    """Hold a reward's answer to the convention.

    Args:
        name: Of the reward, for messages.
        values: What it returned.
        count: Images it was given.

    Returns:
        The values as floats; (count,).

    Raises:
        RewardError: Not a sequence of numbers, the wrong number of them, or one that is not finite.
    """
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
    """Call a reward and hold its answer to the convention, as ``checked_rewards`` does.

    Args:
        reward: The function.
        prompts: One an image.
        images: RGB.
        columns: Other columns of the data set, one entry an image.

    Returns:
        Rewards; one an image.
    """
    values = reward(prompts=prompts, images=images, **columns)
    return checked_rewards(reward_name(reward), values, len(images))


def refusal(reward: object, prompt: str, columns: Mapping[str, object]) -> str:
    """Why a reward cannot judge images of a prompt; empty where it can, or does not say.

    A reward says so by a method ``check(prompt, columns)`` that raises ValueError.

    Args:
        reward: Any reward.
        prompt: What is asked for.
        columns: The prompt's other columns.
    """
    check = getattr(reward, "check", None)
    if check is None:
        return ""
    try:
        check(prompt, columns)
    except ValueError as err:
        return str(err)
    return ""
