"""What the preference scorers share: settings, lazy models, batches, canaries.

Imports no framework: a scorer's own ``load`` does.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from evaluators.base import ADDRESS, Canary, Evaluator, JudgeConfig, Sample, Score
from evaluators.devices import check_dtype
from evaluators.preference.canaries import shape_canaries

Values = Callable[[Sequence[str], Sequence[Image.Image]], list[float]]
"""One number for each pair of a prompt and an image."""


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer with its weights in memory.

    Attributes:
        values: Judges pairs.
        weights_hash: The sha256 of everything loaded.
    """

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

    weights: str
    batch_size: int = field(default=32, metadata=ADDRESS)
    dtype: str = "float32"
    device: str = field(default="auto", metadata=ADDRESS)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not self.weights:
            raise ValueError("weights is empty: give a hub id (owner/name) or a local path")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 1")
        check_dtype(self.dtype)

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
    """Scores (prompt, image) pairs in batches; loads its weights when it is first used.

    Args:
        config: Weights and how to run them.
        canaries: Take the place of the drawn ones, for models of another world.
    """

    config: ScorerConfig

    def __init__(self, config: ScorerConfig, canaries: Sequence[Canary] | None = None) -> None:
        self.config = config
        self._canaries = canaries
        self._loaded: LoadedScorer | None = None

    @property
    def weights_hash(self) -> str:
        """The sha256 of everything loaded."""
        return self._scorer().weights_hash

    def _scorer(self) -> LoadedScorer:
        if self._loaded is None:
            self._loaded = self.config.load()
        return self._loaded

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order."""
        import torch

        scorer = self._scorer()
        scores: list[Score] = []
        for start in range(0, len(samples), self.config.batch_size):
            batch = samples[start : start + self.config.batch_size]
            prompts = [sample.prompt for sample in batch]
            images = [sample.image.convert("RGB") for sample in batch]
            with torch.inference_mode():
                values = scorer.values(prompts, images)
            scores += map(_as_score, batch, values)
        return scores

    def canaries(self) -> Sequence[Canary]:
        """Drawn pairs, or those given to the constructor."""
        return self.config.canaries() if self._canaries is None else self._canaries


def _as_score(sample: Sample, value: float) -> Score:
    if not math.isfinite(value):
        reason = f"the model gave {value}; its dtype may be too narrow"
        return Score.unscored(sample.sample_id, reason)
    return Score(sample_id=sample.sample_id, value=value)
