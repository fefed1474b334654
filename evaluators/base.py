"""What a judge is: a ``JudgeConfig`` says what its number is and builds the ``Evaluator``."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeVar

from PIL import Image

from evaluators.weights import EvaluatorError as EvaluatorError
from evaluators.weights import PublishedFile, PublishedWeights, content_digest

if TYPE_CHECKING:
    from torch import Tensor

#: Metadata of a field that no address holds: it changes speed, memory or words, and no number.
ADDRESS: Mapping[str, bool] = {"address": False}
#: Of one that came later and may change numbers: addresses hold it unless it has its default,
#: with which numbers are as before.
ADDRESS_IF_SET: Mapping[str, str] = {"address": "if set"}
#: What ``runs_on`` is of a judge whose model another process holds.
SERVER = "server"
#: Begins the reasons of images whose judge did not answer, and would be asked again.
NO_ANSWER = "no answer"
#: Of the larger end of a range: what a sum of probabilities in half precision may be off by.
_ROUNDING = 1e-3
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(abc.ABC):
    """A judge as it is set: a frozen dataclass beside its evaluator, which states the facts below.

    Attributes:
        kind: Stable name in addresses, whatever the class is called and wherever it lies.
        version: Changes whenever a number may change with the same settings and weights.
        title: For people.
        summary: What it measures, in a few words.
        unit: Of its number.
        units: Of further numbers in another unit; with ``%`` in front, of a share shown times 100.
        decimals: Digits after the point; one more than the differences that matter.
        value_range: Least and largest number.
        is_bounded: Whether no number can lie outside of it; a learned head's may, now and then.
        higher_is_better: Which way is up.
        is_macro_mean: Whether the headline is the mean of means by the ``tag`` in scores' details.
        is_oracle: Whether it knows the truth, as only a drawn world can.
        oracle_of: Names of the learned judges whose truth it knows.
        packages: Names of the packages that it imports, as pip has them.
        code: Further modules that its numbers come from; a change there makes scores stale.
        published: What its default settings download.
        optional: What other settings of it download, which ``fetch`` gets as well.
        batch_gb: Most that a batch of images takes beside the weights in float32, GB.
    """

    kind: ClassVar[str]
    version: ClassVar[str] = "1"
    title: ClassVar[str]
    summary: ClassVar[str]
    unit: ClassVar[str]
    units: ClassVar[Mapping[str, str]] = {}
    decimals: ClassVar[int] = 3
    value_range: ClassVar[tuple[float, float]]
    is_bounded: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True
    is_macro_mean: ClassVar[bool] = False
    is_oracle: ClassVar[bool] = False
    oracle_of: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[tuple[PublishedWeights | PublishedFile, ...]] = ()
    optional: ClassVar[tuple[PublishedFile, ...]] = ()
    # Ours are twice what is counted in bfloat16 on a pretended GPU.
    batch_gb: ClassVar[float] = 0.0

    def __init_subclass__(cls) -> None:
        """Refuse a range that is reversed, by a ``ValueError``."""
        super().__init_subclass__()
        match vars(cls).get("value_range"):
            case (int() | float() as least, int() | float() as largest) if not least < largest:
                raise ValueError(
                    f"{cls.__module__}.{cls.__qualname__}.value_range=({least}, {largest}): write "
                    "the least number first, and a larger one"
                )

    @abc.abstractmethod
    def build(self) -> Evaluator:
        """The evaluator; ``EvaluatorError`` where it cannot be used."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Packages whose versions a number may depend on."""
        # Pillow decodes the images of every judge.
        return (*self.packages, "pillow")

    def check_prompt(self, prompt: str, metadata: Mapping[str, object]) -> None:  # noqa: B027
        """Refuse, by a ``ValueError``, a prompt that no image could be judged for."""

    @property
    def runs_on(self) -> str | None:
        """Where it computes: a torch device, ``auto``, or ``SERVER``; None does not say.

        As a reward it is asked while the next images are drawn, where that is not where the model
        is.
        """
        return None

    def missing(self) -> tuple[str, str]:
        """What is not here besides packages and weights, and the command that gets it."""
        return "", ""

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The settings that name weights (hub id or path), each with the files that it needs."""
        return {}

    def settings(self) -> dict[str, object]:
        """The settings that a number depends on beside the weights."""
        names = [entry.name for entry in dataclasses.fields(self) if self._counts(entry)]
        return {name: getattr(self, name) for name in names if name not in self.weight_files()}

    def _counts(self, entry: dataclasses.Field[object]) -> bool:
        if entry.metadata == ADDRESS_IF_SET:
            return bool(getattr(self, entry.name) != entry.default)
        return bool(entry.metadata.get("address", True))

    def identity(self) -> dict[str, object]:
        """What its address holds, as JSON values."""
        # The kind and not the class's path: a class that is moved keeps the scores that it gave.
        weights = {name: self._digest(name, files) for name, files in self.weight_files().items()}
        return {
            "kind": self.kind,
            "version": self.version,
            "settings": self.settings(),
            "weights": weights,
        }

    def _digest(self, name: str, files: Sequence[str]) -> str:
        weights = str(getattr(self, name))
        # A file whose content is pinned has one address, fetched or not, local or on the hub.
        pinned: dict[tuple[str, ...], str] = {
            (published.repo, file): sha256
            for published in self.published
            if isinstance(published, PublishedWeights)
            for file, sha256 in published.sha256
        }
        digest = pinned.get((weights, *files)) or content_digest(weights, files)
        # Its name alone is known before it is fetched: a copy elsewhere has the same address.
        names = [one for one in self.published if isinstance(one, PublishedFile)]
        return next((one.name for one in names if digest.startswith(one.sha256)), digest)

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


def check_settings(
    config: JudgeConfig, *, texts: Sequence[str] = (), counts: Sequence[str] = ()
) -> None:
    """Refuse empty names of weights and counts below 1 (None is no count) by a ``ValueError``."""
    for name in texts:
        if not getattr(config, name):
            raise ValueError(f"{name} is empty: give a hub id (owner/name) or a local path")
    for name in counts:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An RGB image to be judged, with GenEval's metadata or what else the evaluator needs.

    ``sample_id`` is unique in a set, e.g. ``"00012/0003"``; ``prompt_id`` is shared by the images
    of a prompt, by which statistics cluster. ``pixels`` are what ``Evaluator.prepared`` made of the
    image for that evaluator's model.
    """

    sample_id: str
    prompt_id: str
    prompt: str
    image: Image.Image
    metadata: Mapping[str, object] = field(default_factory=dict)
    pixels: Tensor | None = field(default=None, repr=False, compare=False)

    @classmethod
    def drawn(cls, name: str, prompt: str, image: Image.Image, **metadata: object) -> Sample:
        """One side of a canary."""
        return cls(sample_id=name, prompt_id=name, prompt=prompt, image=image, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measurement; ``value`` is nan exactly when ``reason`` says why it failed."""

    sample_id: str
    value: float
    reason: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Elsewhere a failed measurement is a -10 or a 0, which somebody later forgets to leave out.
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
        """What numbers depend on beside the weights, for the fingerprint."""
        return self.config.settings()

    def prepared(self, sample: Sample) -> Sample:
        """The sample with its image resized for the model; threads ask for it ahead of scores."""
        return sample

    @abc.abstractmethod
    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order; an image that cannot be measured is unscored."""

    @abc.abstractmethod
    def canaries(self) -> Sequence[Canary]:
        """Pairs that must come out in the known order before anything is scored."""

    def check(self, prompt: str, metadata: Mapping[str, object]) -> None:
        """Refuse, by a ``ValueError``, a prompt that no image could be judged for."""
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
        samples: Sequence[Sample],  # noqa: ARG002 (GenEval needs the prompts)
        scores: Sequence[Score],
    ) -> dict[str, float]:
        """Summary numbers; the first is the headline. Unscored images are left out and counted."""
        values = [score.value for score in scores if score.reason is None]
        return {"mean": mean_of(values), "unscored": float(len(scores) - len(values))}

    def check_canaries(self) -> None:
        """Score the canaries; ``EvaluatorError`` where a pair is unscored or in the wrong order."""
        # A wrong detector elsewhere gives a GenEval of 0.03 and no error (djghosh13/geneval#6).
        sign = 1 if self.config.higher_is_better else -1
        for canary in self._tried(self.canaries):
            pair = (canary.good, canary.bad)
            good, bad = self._tried(functools.partial(checked_scores, self, pair))
            # Not "<=", which lets an unscored one pass: nan compares as false.
            if not sign * good.value > sign * bad.value:
                raise EvaluatorError(
                    f"evaluator {self.name!r} does not work here: canary {canary.good.sample_id!r} "
                    f"scored {good.value:.4g} ({good.reason}), but {canary.bad.sample_id!r} scored "
                    f"{bad.value:.4g} ({bad.reason}); nothing was scored. Check its weights and "
                    "version."
                )

    def _tried(self, ask: Callable[[], T]) -> T:
        """What the judge's code gives; ``EvaluatorError`` whatever it raises."""
        try:
            return ask()
        except EvaluatorError:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise EvaluatorError(
                f"evaluator {self.name!r} raised {type(error).__name__}: {error} at its canaries "
                f"({place.filename}:{place.lineno}); nothing was scored"
            ) from error


def checked_scores(evaluator: Evaluator, samples: Sequence[Sample]) -> list[Score]:
    """One score a sample, in order; ``EvaluatorError`` where the judge breaks that promise."""
    scores: object = evaluator.score(samples)
    name = f"evaluator {evaluator.name!r}"
    if not isinstance(scores, Sequence) or not all(isinstance(one, Score) for one in scores):
        raise EvaluatorError(
            f"{name} gave no list of Score, but {str(scores)[:80]}; return one a sample, in order"
        )
    # A judge that drops or sorts images would shift every number after, and none would look wrong.
    if [score.sample_id for score in scores] != [sample.sample_id for sample in samples]:
        raise EvaluatorError(
            f"{name} gave {len(scores)} scores for {len(samples)} images, or gave them out of order"
        )
    for score in scores:
        _check_range(evaluator.config, score)
    return list(scores)


def _check_range(config: JudgeConfig, score: Score) -> None:
    """Refuse a number outside of its judge's range, to which intervals are cut."""
    least, largest = config.value_range
    # A cosine may be 1.0000001.
    slack = _ROUNDING * max(1.0, abs(least), abs(largest))
    is_within = least - slack <= score.value <= largest + slack
    if config.is_bounded and score.reason is None and not is_within:
        kind = type(config)
        raise EvaluatorError(
            f"evaluator {config.kind!r} gave {score.value!r} for {score.sample_id!r}, outside of "
            f"value_range={config.value_range} of {kind.__module__}.{kind.__qualname__}; correct "
            "either"
        )


def mean_of(values: Collection[float]) -> float:
    """The mean; nan of nothing."""
    # Exact summation: the order of the images, and so the number of workers, cannot change it.
    return math.fsum(values) / len(values) if values else math.nan
