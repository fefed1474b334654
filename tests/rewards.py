"""Rewards of TRL's convention, good and bad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evaluators.base import Canary, Evaluator, JudgeConfig, Sample, Score


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


@dataclass(frozen=True, kw_only=True)
class DullnessConfig(JudgeConfig):
    """A user's own judge: how unlike each other the colour channels are; lower is better."""

    kind = "dullness"
    title = "Dullness"
    summary = "how unlike each other the colour channels are"
    unit = "level"
    higher_is_better = False
    value_range = (0.0, 255.0)

    def build(self) -> Evaluator:
        return Dullness()


class Dullness(Evaluator):
    config = DullnessConfig()

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


def with_a_fault(**_columns: object) -> list[float]:
    raise KeyError("a fault")


def that_leaves(**_columns: object) -> list[float]:
    raise SystemExit(7)
