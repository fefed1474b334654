"""What a judge is: it scores samples, one ``Score`` each and in order; aggregation is separate.

A failed measurement is ``nan`` with a reason, is counted, and is never a number.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from PIL import Image


class EvaluatorError(RuntimeError):
    """An evaluator that cannot be trusted to score at all (missing weights, canaries reversed)."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image to be judged.

    Attributes:
        sample_id: Unique in a set, e.g. ``"00012/0003"``.
        prompt_id: Images of the same prompt share it; statistics cluster by it.
        prompt: What was asked for.
        image: RGB.
        metadata: GenEval's metadata, or what else the evaluator needs.
    """

    sample_id: str
    prompt_id: str
    prompt: str
    image: Image.Image
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measurement; ``value`` is nan exactly when ``reason`` says why it failed."""

    sample_id: str
    value: float
    reason: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if math.isnan(self.value) != (self.reason is not None):
            raise ValueError(f"{self.sample_id}: value is nan exactly when a reason is given")

    @classmethod
    def unscored(cls, sample_id: str, reason: str) -> Score:
        """A measurement that failed."""
        return cls(sample_id=sample_id, value=math.nan, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A pair of drawn images whose order is known."""

    good: Sample
    bad: Sample


class Evaluator(abc.ABC):
    """Scores samples. Class facts say what the number is."""

    name: ClassVar[str]
    version: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    value_range: ClassVar[tuple[float, float]]
    unit: ClassVar[str]

    @abc.abstractmethod
    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order; an image that cannot be measured is unscored."""

    @abc.abstractmethod
    def canaries(self) -> Sequence[Canary]:
        """Pairs that must come out in the known order before anything is scored."""

    def check(self, prompt: str, metadata: Mapping[str, object]) -> None:  # noqa: B027
        """Refuse a prompt that no image could be judged for; most evaluators take any.

        Raises:
            ValueError: Says what is wrong with the prompt or its metadata.
        """

    def reward(self, score: Score) -> float:
        """What a measured score is worth as a reward; higher is better."""
        return score.value if self.higher_is_better else -score.value

    @property
    def weights_hash(self) -> str:
        """What identifies the weights, for the fingerprint; empty where there are none."""
        return ""

    @property
    def settings(self) -> Mapping[str, object]:
        """What else numbers depend on (thresholds, dtype), for the fingerprint."""
        return {}

    def aggregate(
        self,
        samples: Sequence[Sample],  # noqa: ARG002 (GenEval needs the tasks)
        scores: Sequence[Score],
    ) -> dict[str, float]:
        """Summary numbers; the first is the headline. Unscored images are left out and counted."""
        values = [score.value for score in scores if score.reason is None]
        mean = math.fsum(values) / len(values) if values else math.nan
        return {"mean": mean, "unscored": float(len(scores) - len(values))}

    def check_canaries(self) -> None:
        """Score the canaries.

        Raises:
            EvaluatorError: A pair comes out unscored or in the wrong order.
        """
        for canary in self.canaries():
            good, bad = self.score([canary.good, canary.bad])
            sign = 1 if self.higher_is_better else -1
            if not sign * good.value > sign * bad.value:
                raise EvaluatorError(
                    f"evaluator {self.name!r} does not work here: canary {canary.good.sample_id!r} "
                    f"scored {good.value:.4g} ({good.reason}), but {canary.bad.sample_id!r} scored "
                    f"{bad.value:.4g} ({bad.reason}); nothing was scored. Check its weights and "
                    "version."
                )
