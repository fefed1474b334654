"""What rewards are divided by: how much each differs over images of the base model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from PIL import Image

from baselines.rewards.base import RewardFunction, refusal, score_images, spread
from soarbench.data.encoded_rows import EncodedRows
from soarbench.data.prompts import PromptItem
from soarbench.evaluation.drawing import Draw

#: Training prompts, of each of which the base draws one image.
NUM_PROMPTS = 64
# Not as many as fit: a setting that is for memory alone would change the scales.
_DRAWN_TOGETHER = 8


def reward_scales(
    rewards: Mapping[str, RewardFunction], rows: EncodedRows, draw: Draw
) -> dict[str, float]:
    """The standard deviation of each reward, over prompts of ``rows`` that it can judge.

    ``RewardError`` where a reward is the same for all images.
    """
    judged = {name: _judged_prompts(reward, rows) for name, reward in rewards.items()}
    prompts = list(dict.fromkeys(prompt for chosen in judged.values() for prompt in chosen))
    images = dict(zip(prompts, _images(prompts, draw), strict=True))
    scales = {}
    for name, reward in rewards.items():
        per_prompt = [rows.columns(prompt) for prompt in judged[name]]
        columns = {key: [row[key] for row in per_prompt] for key in (per_prompt or [{}])[0]}
        shown = [images[prompt] for prompt in judged[name]]
        scales[name] = spread(name, score_images(reward, judged[name], shown, columns))
    return scales


def _judged_prompts(reward: RewardFunction, rows: EncodedRows) -> list[str]:
    """Different prompts that a reward can judge, evenly spaced."""
    different = dict.fromkeys(rows.prompts)
    prompts = [one for one in different if not refusal(reward, one, rows.columns(one))]
    count = min(NUM_PROMPTS, len(prompts))
    return [prompts[index * len(prompts) // count] for index in range(count)]


def _images(prompts: Sequence[str], draw: Draw) -> Iterator[Image.Image]:
    """One image a prompt, whose noise follows from the prompt."""
    items = [(PromptItem(f"reward_scale/{prompt}", prompt), 0) for prompt in prompts]
    for start in range(0, len(items), _DRAWN_TOGETHER):
        yield from draw(items[start : start + _DRAWN_TOGETHER])
