"""What rewards are divided by."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baselines.rewards.base import RewardError
from soarbench.data.encoded_rows import EncodedRows
from soarbench.jobs.reward_scales import NUM_PROMPTS, reward_scales
from soarbench.store.training import TrainingFolder


class Picky:
    """Brightness, of prompts that name a number below 50."""

    def __init__(self):
        self.prompts = []

    def check(self, _prompt, columns):
        if columns["number"] >= 50:
            raise ValueError("too large")

    def __call__(self, *, prompts, images, number):
        self.prompts += prompts
        assert [int(prompt) for prompt in prompts] == number
        return [float(np.asarray(image).mean()) for image in images]


def draw(batch):
    """A grey that follows from the prompt."""
    return [Image.new("RGB", (4, 4), (int(item.prompt),) * 3) for item, _ in batch]


def rows(count):
    # Each prompt twice, as captions of two pictures are.
    prompts = [str(index) for index in range(count)] * 2
    return EncodedRows(
        prompts, None, lambda _: {}, (), columns=lambda prompt: {"number": int(prompt)}
    )


def test_a_scale_is_the_spread_over_evenly_spaced_prompts_that_the_reward_can_judge():
    picky, length = Picky(), lambda *, number, **_: [float(n) for n in number]
    scales = reward_scales({"picky": picky, "number": length}, rows(200), draw)
    assert picky.prompts == [str(index) for index in range(50)]
    assert scales["picky"] == pytest.approx(statistics.pstdev(range(50)))
    chosen = [index * 200 // NUM_PROMPTS for index in range(NUM_PROMPTS)]
    assert scales["number"] == pytest.approx(statistics.pstdev(chosen))


def test_a_reward_that_tells_no_images_apart_is_refused():
    with pytest.raises(RewardError, match="reward 'same' gives 3 images of the base"):
        reward_scales({"same": lambda *, images, **_: [1.0] * len(images)}, rows(3), draw)


def test_a_training_goes_on_with_the_scales_that_it_began_with(tmp_path: Path):
    folder = TrainingFolder(tmp_path / "training")
    assert folder.reward_scales() == {}
    folder.note_reward_scales({"aesthetic": 0.25, "clip": 3.0})
    assert TrainingFolder(tmp_path / "training").reward_scales() == {"aesthetic": 0.25, "clip": 3.0}
