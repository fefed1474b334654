"""What the preference scorers share: settings, lazy models, batches, canaries."""

from __future__ import annotations

import abc
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from PIL import Image

from evaluators.base import ADDRESS, Canary, Evaluator, JudgeConfig, Sample, Score, check_settings
from evaluators.batches import at_once
from evaluators.canaries import shape_canaries
from evaluators.clip import USUAL_INPUT
from evaluators.devices import check_dtype
from evaluators.images import in_threads

if TYPE_CHECKING:
    from torch import Tensor

Values = Callable[[Sequence[str], "Tensor"], list[float]]
"""One number for each pair of a prompt and a preprocessed image, (B, 3, S, S)."""


class LoadedScorer(NamedTuple):
    """A scorer with its weights in memory.

    ``preprocess`` makes an RGB image (3, S, S), S being ``side``; ``weights_hash`` is the sha256 of
    everything loaded.
    """

    values: Values
    preprocess: Callable[[Image.Image], Tensor]
    side: int
    weights_hash: str


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(JudgeConfig):
    """A scorer that runs here.

    Attributes:
        weights: Hub id (``owner/name``, ``owner/name@revision``) or local path.
        batch_size: Images at a time, if the model takes 224 x 224 pixels of each; of a model that
            takes more, fewer.
        dtype: ``float32``, ``bfloat16`` or ``float16``: of the model's weights and arithmetic;
            the score itself is computed in float32.
        device: ``auto`` (the first GPU, else the CPU), or a torch device.
    """

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "open_clip_torch")
    # A rating head is linear at its end, and weights may be anybody's.
    is_bounded: ClassVar[bool] = False

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

    def prepared(self, sample: Sample) -> Sample:
        """The sample with its preprocessed image."""
        if sample.pixels is not None:
            return sample
        return replace(sample, pixels=self._scorer.preprocess(sample.image.convert("RGB")))

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order."""
        # Not above: a judge is listed, set and checked without a framework.
        import torch

        size = at_once(self.config.batch_size, self._scorer.side**2, usual=USUAL_INPUT)
        # What is not prepared yet, as pictures of a rollout, is while the batch before is judged.
        stream = in_threads(self.prepared, samples, ahead=2 * size)
        scores: list[Score] = []
        while batch := list(itertools.islice(stream, size)):
            pixels = torch.stack([sample.pixels for sample in batch if sample.pixels is not None])
            with torch.inference_mode():
                values = self._scorer.values([sample.prompt for sample in batch], pixels)
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
