"""What a judge is: it scores samples, one ``Score`` each and in order; aggregation is separate.

A failed measurement is ``nan`` with a reason, is counted, and is never a number. A ``JudgeConfig``
says what a judge's number is, what it takes and how it is set; ``build`` makes the ``Evaluator``.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from PIL import Image

from evaluators.errors import EvaluatorError as EvaluatorError
from evaluators.weights import PublishedWeights, content_digest

#: Metadata of a field that no address holds: it changes speed, memory or words, and no number.
ADDRESS: Mapping[str, bool] = {"address": False}


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(abc.ABC):
    """A judge as it is set; importing one loads no framework.

    A subclass is a frozen dataclass of the judge's settings, beside its evaluator, and states the
    facts below; nothing else repeats them.

    Attributes:
        kind: Stable name in addresses, whatever the class is called and wherever it lies.
        version: Changes whenever a number may change with the same settings and weights.
        title: For people.
        summary: What it measures, in a few words.
        unit: Of its number.
        units: Of further numbers of its summary that are not in this unit; where one begins with
            ``%``, the number is a share and shown times 100.
        decimals: Digits after the point; one more than the differences that matter.
        value_range: Least and largest number.
        higher_is_better: Which way is up.
        is_macro_mean: Whether the headline is the mean of the means of the prompts' tasks (the
            ``tag`` in a score's details), and not the mean over images.
        is_oracle: Whether it knows the truth, as only a drawn world can.
        oracle_of: Names of the learned judges whose truth it knows.
        packages: Names of the packages that it imports, as pip has them.
        code: Further modules that its numbers come from; a change there makes scores stale.
        published: What its default settings download.
    """

    kind: ClassVar[str]
    version: ClassVar[str] = "1"
    title: ClassVar[str]
    summary: ClassVar[str]
    unit: ClassVar[str]
    units: ClassVar[Mapping[str, str]] = {}
    decimals: ClassVar[int] = 3
    value_range: ClassVar[tuple[float, float]]
    higher_is_better: ClassVar[bool] = True
    is_macro_mean: ClassVar[bool] = False
    is_oracle: ClassVar[bool] = False
    oracle_of: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[tuple[PublishedWeights, ...]] = ()

    @abc.abstractmethod
    def build(self) -> Evaluator:
        """The evaluator; most load their weights only when they first score.

        Raises:
            EvaluatorError: It cannot be used here.
        """

    @property
    def libraries(self) -> tuple[str, ...]:
        """Packages whose versions a number may depend on; Pillow decodes for every judge."""
        return (*self.packages, "pillow")

    def check_prompt(self, prompt: str, metadata: Mapping[str, object]) -> None:  # noqa: B027
        """Refuse a prompt that no image could be judged for; most judges take any.

        Raises:
            ValueError: Says what is wrong with the prompt or its metadata.
        """

    def missing(self) -> tuple[str, str]:
        """What is not here besides packages and weights, and the command that gets it."""
        return "", ""

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The settings that name weights (hub id or path), each with the files that it needs."""
        return {}

    def settings(self) -> dict[str, object]:
        """The settings that a number depends on beside the weights."""
        entries = dataclasses.fields(self)
        names = [entry.name for entry in entries if entry.metadata.get("address", True)]
        return {name: getattr(self, name) for name in names if name not in self.weight_files()}

    def identity(self) -> dict[str, object]:
        """What its address holds, as JSON values: the same wherever its class or weights lie."""
        weights = {name: self._digest(name, files) for name, files in self.weight_files().items()}
        return {
            "kind": self.kind,
            "version": self.version,
            "settings": self.settings(),
            "weights": weights,
        }

    def _digest(self, name: str, files: Sequence[str]) -> str:
        weights = str(getattr(self, name))
        for published in self.published:
            known = dict(published.sha256)
            if published.repo == weights and list(files) == list(known) and len(known) == 1:
                return known[files[0]]
        return content_digest(weights, files)

    def facts(self) -> dict[str, object]:
        """What a report must know about its number, as JSON values."""
        return {
            "title": self.title,
            "unit": self.unit,
            "units": dict(self.units),
            "decimals": self.decimals,
            "value_range": list(self.value_range),
            "higher_is_better": self.higher_is_better,
            "is_macro_mean": self.is_macro_mean,
            "is_oracle": self.is_oracle,
            "oracle_of": list(self.oracle_of),
        }


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
    """Scores samples; what its number is stands with its configuration."""

    config: JudgeConfig

    @property
    def name(self) -> str:
        """The judge's stable name."""
        return self.config.kind

    @property
    def version(self) -> str:
        """Changes whenever a number may change with the same settings and weights."""
        return self.config.version

    @property
    def settings(self) -> Mapping[str, object]:
        """What numbers depend on beside the weights (thresholds, dtype), for the fingerprint."""
        return self.config.settings()

    @abc.abstractmethod
    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order; an image that cannot be measured is unscored."""

    @abc.abstractmethod
    def canaries(self) -> Sequence[Canary]:
        """Pairs that must come out in the known order before anything is scored."""

    def check(self, prompt: str, metadata: Mapping[str, object]) -> None:
        """Refuse a prompt that no image could be judged for.

        Raises:
            ValueError: Says what is wrong with the prompt or its metadata.
        """
        self.config.check_prompt(prompt, metadata)

    def reward(self, score: Score) -> float:
        """What a measured score is worth as a reward; higher is better."""
        return score.value if self.config.higher_is_better else -score.value

    @property
    def weights_hash(self) -> str:
        """What identifies the weights, for the fingerprint; empty where there are none."""
        return ""

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
            sign = 1 if self.config.higher_is_better else -1
            if not sign * good.value > sign * bad.value:
                raise EvaluatorError(
                    f"evaluator {self.name!r} does not work here: canary {canary.good.sample_id!r} "
                    f"scored {good.value:.4g} ({good.reason}), but {canary.bad.sample_id!r} scored "
                    f"{bad.value:.4g} ({bad.reason}); nothing was scored. Check its weights and "
                    "version."
                )
