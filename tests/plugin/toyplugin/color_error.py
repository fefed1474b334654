"""A judge whose number is better when it is lower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image
from typing_extensions import override

from evaluators.base import Canary, Evaluator, JudgeConfig, Sample, Score
from toyplugin.palette import COLORS, colors_of


@dataclass(frozen=True, kw_only=True)
class ColorErrorConfig(JudgeConfig):
    """How far the picture is from the colour that its prompt names.

    Attributes:
        border: Pixels around the picture that are not looked at.
    """

    kind: ClassVar[str] = "color_error"
    title: ClassVar[str] = "Colour error"
    summary: ClassVar[str] = "distance to the colour that is asked for"
    unit: ClassVar[str] = "levels, 0..255"
    decimals: ClassVar[int] = 1
    value_range: ClassVar[tuple[float, float]] = (0.0, 255.0)
    higher_is_better: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    code: ClassVar[tuple[str, ...]] = ("toyplugin.palette",)

    border: int = 0

    @override
    def build(self) -> Evaluator:
        return ColorError(self)

    @override
    def check_prompt(self, prompt: str, metadata: Mapping[str, object]) -> None:
        if len(colors_of(prompt)) != 1:
            raise ValueError(f"{prompt!r} does not name one colour of {', '.join(COLORS)}")


class ColorError(Evaluator):
    """Mean absolute difference over pixels and channels.

    Args:
        config: Settings.
    """

    def __init__(self, config: ColorErrorConfig) -> None:
        self.config: ColorErrorConfig = config

    @override
    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(sample_id=one.sample_id, value=self._error(one)) for one in samples]

    def _error(self, sample: Sample) -> float:
        border = self.config.border
        height, width = sample.image.height - border, sample.image.width - border
        pixels = np.asarray(sample.image, dtype=np.float64)[border:height, border:width]
        return float(np.abs(pixels - np.array(colors_of(sample.prompt)[0])).mean())

    @override
    def canaries(self) -> Sequence[Canary]:
        """Red against blue, where red is asked for."""
        red, blue = (
            Sample(
                sample_id=name,
                prompt_id="canary",
                prompt="red",
                image=Image.new("RGB", (8, 8), name),
            )
            for name in ("red", "blue")
        )
        return (Canary(good=red, bad=blue),)
