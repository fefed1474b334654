"""What rewards are divided by: how much each differs over images of the base model."""

from __future__ import annotations

from collections.abc import Mapping

from baselines.rewards.base import RewardFunction, refusal, score_images, spread
from soarbench.data.encoded_rows import EncodedRows
from soarbench.data.prompts import PromptItem
from soarbench.evaluation.drawing import Draw

#: Training prompts, of each of which the base draws one image.
NUM_PROMPTS = 64


def reward_scales(
    rewards: Mapping[str, RewardFunction], rows: EncodedRows, draw: Draw
) -> dict[str, float]:
    """The standard deviation of each reward, over prompts of ``rows`` that it can judge.

    ``RewardError`` where a reward is the same for all images.
    """
    return {name: _scale(name, reward, rows, draw) for name, reward in rewards.items()}


def _scale(name: str, reward: RewardFunction, rows: EncodedRows, draw: Draw) -> float:
    judged = [
        one for one in dict.fromkeys(rows.prompts) if not refusal(reward, one, rows.columns(one))
    ]
    count = min(NUM_PROMPTS, len(judged))
    prompts = [judged[index * len(judged) // count] for index in range(count)]
    # By the prompt: where two rewards judge it, both see one image.
    items = [PromptItem(f"reward_scale/{prompt}", prompt) for prompt in prompts]
    images = [image for item in items for image in draw([(item, 0)])]
    per_prompt = [rows.columns(prompt) for prompt in prompts]
    columns = {key: [of[key] for of in per_prompt] for key in (per_prompt or [{}])[0]}
    return spread(name, score_images(reward, prompts, images, columns))
