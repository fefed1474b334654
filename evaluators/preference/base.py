"""What the preference scorers share: lazy models, batches, canaries."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from PIL import Image

from evaluators.base import Canary, Evaluator, Sample, Score
from evaluators.preference.canaries import shape_canaries
from evaluators.preference.config import ScorerConfig


class LoadedScorer(Protocol):
    """A scorer with its weights in memory."""

    @property
    def weights_hash(self) -> str:
        """The sha256 of everything loaded."""

    def values(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """One number a pair."""


ConfigT = TypeVar("ConfigT", bound=ScorerConfig)


class PreferenceEvaluator(Evaluator, Generic[ConfigT]):
    """Scores (prompt, image) pairs in batches; loads its weights when it is first used.

    Args:
        config: Weights and how to run them.
        canaries: Take the place of the drawn ones, for models of another world.
    """

    def __init__(self, config: ConfigT, canaries: Sequence[Canary] | None = None) -> None:
        self.config = config
        self._canaries = tuple(canaries) if canaries is not None else None
        self._loaded: LoadedScorer | None = None

    @abc.abstractmethod
    def load(self) -> LoadedScorer:
        """Find, check and load the weights; a WeightsError where they are not to be had."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What makes numbers comparable beyond the weights, for the fingerprint."""
        return {"dtype": self.config.dtype}

    @property
    def weights_hash(self) -> str:
        """The sha256 of everything loaded."""
        return self._scorer().weights_hash

    def _scorer(self) -> LoadedScorer:
        if self._loaded is None:
            self._loaded = self.load()
        return self._loaded

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order."""
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
        return self.drawn_canaries() if self._canaries is None else self._canaries

    def drawn_canaries(self) -> Sequence[Canary]:
        """Pairs whose order any scorer of this kind gets right."""
        return shape_canaries(self.name)


def _as_score(sample: Sample, value: float) -> Score:
    if not math.isfinite(value):
        reason = f"the model gave {value}; its dtype may be too narrow"
        return Score.unscored(sample.sample_id, reason)
    return Score(sample_id=sample.sample_id, value=value)


def torch_device(name: str) -> torch.device:
    """The device that a config names."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that a config names."""
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[name]
