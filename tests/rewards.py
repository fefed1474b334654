"""Rewards of TRL's convention, good and bad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL import Image

from evaluators.base import Canary, Evaluator, Sample, Score


def brightness(
    prompts: Sequence[str], images: Sequence[Image.Image], **_columns: Sequence[object]
) -> list[float]:
    assert len(prompts) == len(images)
    return [float(np.asarray(image).mean()) for image in images]


def one_short(
    prompts: Sequence[str], images: Sequence[Image.Image], **_columns: Sequence[object]
) -> list[float]:
    return brightness(prompts, images)[1:]


def not_a_number(
    prompts: Sequence[str], images: Sequence[Image.Image], **_columns: Sequence[object]
) -> list[float]:
    return [math.nan for _ in brightness(prompts, images)]


class Dullness(Evaluator):
    """A user's own judge: how unlike each other the colour channels are; lower is better."""

    name: ClassVar[str] = "dullness"
    version: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = False
    value_range: ClassVar[tuple[float, float]] = (0.0, 255.0)
    unit: ClassVar[str] = "level"

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [
            Score(sample_id=s.sample_id, value=float(np.ptp(np.asarray(s.image), axis=-1).mean()))
            for s in samples
        ]

    def canaries(self) -> Sequence[Canary]:
        grey, red = (
            Sample(sample_id=c, prompt_id=c, prompt=c, image=Image.new("RGB", (4, 4), c))
            for c in ("grey", "red")
        )
        return [Canary(good=grey, bad=red)]
