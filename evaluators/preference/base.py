"""What the preference scorers share: settings, lazy models, batches, canaries."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from PIL import Image, ImageDraw

from evaluators.base import ADDRESS, Canary, Evaluator, JudgeConfig, Sample, Score, check_settings
from evaluators.devices import check_dtype

Values = Callable[[Sequence[str], Sequence[Image.Image]], list[float]]
"""One number for each pair of a prompt and an image."""


class LoadedScorer(NamedTuple):
    """A scorer with its weights in memory, and the sha256 of everything loaded."""

    values: Values
    weights_hash: str


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(JudgeConfig):
    """A scorer that runs here.

    Attributes:
        weights: Hub id (``owner/name``, ``owner/name@revision``) or local path.
        batch_size: Images at a time.
        dtype: ``float32``, ``bfloat16`` or ``float16``: of the model's weights and arithmetic;
            the score itself is computed in float32.
        device: ``auto`` (the first GPU, else the CPU), or a torch device.
    """

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "open_clip_torch")

    weights: str
    batch_size: int = field(default=32, metadata=ADDRESS)
    dtype: str = "float32"
    device: str = field(default="auto", metadata=ADDRESS)

    def __post_init__(self) -> None:
        check_settings(self, texts=("weights",), counts=("batch_size",))
        check_dtype(self.dtype)

    @property
    def runs_on(self) -> str:
        """Its device."""
        return self.device

    @abc.abstractmethod
    def load(self) -> LoadedScorer:
        """Find, check and load the weights; a WeightsError where they are not to be had."""

    def canaries(self) -> Sequence[Canary]:
        """Pairs whose order any scorer of this kind gets right."""
        return shape_canaries(self.kind)

    def build(self) -> PreferenceEvaluator:
        """The evaluator; loads its weights when it is first used."""
        return PreferenceEvaluator(self)


class PreferenceEvaluator(Evaluator):
    """Scores (prompt, image) pairs in batches; loads its weights when it is first used."""

    config: ScorerConfig

    def __init__(self, config: ScorerConfig) -> None:
        self.config = config

    @property
    def weights_hash(self) -> str:
        """The sha256 of everything loaded."""
        return self._scorer.weights_hash

    @functools.cached_property
    def _scorer(self) -> LoadedScorer:
        return self.config.load()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order."""
        # Not above: a judge is listed, set and checked without a framework.
        import torch

        scores: list[Score] = []
        for start in range(0, len(samples), self.config.batch_size):
            batch = samples[start : start + self.config.batch_size]
            prompts = [sample.prompt for sample in batch]
            images = [sample.image.convert("RGB") for sample in batch]
            with torch.inference_mode():
                values = self._scorer.values(prompts, images)
            scores += map(_as_score, batch, values)
        return scores

    def canaries(self) -> Sequence[Canary]:
        """Its configuration's."""
        return self.config.canaries()


def _as_score(sample: Sample, value: float) -> Score:
    if not math.isfinite(value):
        reason = f"the model gave {value}; its dtype may be too narrow"
        return Score.unscored(sample.sample_id, reason)
    return Score(sample_id=sample.sample_id, value=value)


def shape_canaries(name: str) -> Sequence[Canary]:
    """A red circle and a blue square, each under its own prompt and under the other's."""
    wishes = ("a red circle", "a blue square")
    pairs = []
    for shown, other in (wishes, wishes[::-1]):
        image = _picture(shown)
        # One image under two prompts: a scorer that looks at the image alone fails as well.
        good, bad = (
            Sample.drawn(f"canary/{name}/{wish}", f"a photo of {wish}", image)
            for wish in (shown, other)
        )
        pairs.append(Canary(good=good, bad=bad))
    return pairs


def _picture(wish: str) -> Image.Image:
    _, color, shape = wish.split()
    image = Image.new("RGB", (1024, 1024), (235, 235, 235))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "circle" else draw.rectangle)((256, 256, 768, 768), fill=color)
    # Drawn large and scaled down: Pillow draws edges without smoothing.
    return image.resize((256, 256), Image.Resampling.LANCZOS)
