"""A reward function as a judge: what it says of a suite's images, on which nobody trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from evaluators.base import ADDRESS, Canary, Evaluator, EvaluatorError, JudgeConfig, Sample, Score
from soarbench.config.settings import Settings

if TYPE_CHECKING:
    from baselines.rewards.base import RewardFunction


@dataclass(frozen=True, kw_only=True)
class RewardConfig(JudgeConfig):
    """A function of TRL's convention, which states no facts: they are said here.

    Attributes:
        function: Its dotted path.
        label: Its title in tables and figures; null: the function's name.
        label_unit: Unit of its number.
        label_decimals: Digits after the point.
    """

    kind: ClassVar[str] = "reward"
    title: ClassVar[str] = "Reward"
    summary: ClassVar[str] = "a reward function of yours, on images that nobody trained on"
    unit: ClassVar[str] = "reward"
    # Finite, since JSON knows no infinity.
    value_range: ClassVar[tuple[float, float]] = (-sys.float_info.max, sys.float_info.max)

    function: str
    label: str | None = field(default=None, metadata=ADDRESS)
    label_unit: str = field(default="reward", metadata=ADDRESS)
    label_decimals: int = field(default=3, metadata=ADDRESS)

    @property
    @override
    def code(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.function.replace(":", ".").rpartition(".")[0],)

    @override
    def facts(self) -> dict[str, object]:
        own = {"unit": self.label_unit, "decimals": self.label_decimals}
        return {**super().facts(), **own, "title": self.label or last_name(self.function)}

    @override
    def build(self) -> Evaluator:
        from baselines.rewards.base import RewardError
        from baselines.rewards.evaluator import resolve_reward

        try:
            return RewardJudge(self, resolve_reward(self.function))
        except RewardError as error:
            raise EvaluatorError(str(error)) from error


class RewardJudge(Evaluator):
    """Asks a reward about images, with their prompts' metadata for the data set's columns.

    Args:
        config: Settings.
        reward: Higher is better.
    """

    def __init__(self, config: RewardConfig, reward: RewardFunction) -> None:
        self.config: RewardConfig = config
        self._reward = reward

    @override
    def score(self, samples: Sequence[Sample]) -> list[Score]:
        from baselines.rewards.base import RewardError

        try:
            values = self._values(samples)
        except RewardError as error:
            if len(samples) == 1:
                return [Score.unscored(samples[0].sample_id, str(error))]
            # One image that it refuses leaves the others theirs.
            return [score for sample in samples for score in self.score([sample])]
        return [
            Score(sample_id=sample.sample_id, value=value)
            for sample, value in zip(samples, values, strict=True)
        ]

    def _values(self, samples: Sequence[Sample]) -> list[float]:
        from baselines.rewards.base import tried_reward

        names = dict.fromkeys(name for sample in samples for name in sample.metadata)
        columns = {
            name: [sample.metadata.get(name) for sample in samples]
            for name in names
            if name not in ("prompt", "prompts", "images")
        }
        prompts, images = [one.prompt for one in samples], [one.image for one in samples]
        return tried_reward(self._reward, prompts, images, columns)

    @override
    def canaries(self) -> Sequence[Canary]:
        """None: what it should say of which image, only its author knows."""
        return ()


def last_name(path: str) -> str:
    """A function's own name, of its dotted path."""
    return path.replace(":", ".").rpartition(".")[2]


def with_reward_judges(settings: Settings, functions: Sequence[str]) -> Settings:
    """Settings in which reward functions judge the suite of the task's deciding metric, too.

    A judge of the user's own that names one keeps its title; any other gets the function's name.
    """
    judges, asked = dict(settings.judge), []
    for path in functions:
        known = [name for name, one in judges.items() if _is_of(one, path)]
        name = known[0] if known else last_name(path)
        # An own reward may be called as one of the judges is.
        name = path.replace(":", ".").replace(".", "_") if not known and name in judges else name
        judges.setdefault(name, RewardConfig(function=path))
        asked.append(name)
    suites = {
        key: replace(suite, judges=(*suite.judges, *_unasked(asked, settings)))
        if settings.task.final_metric in suite.judges
        else suite
        for key, suite in settings.suites.items()
    }
    return replace(settings, judge=judges, suites=suites)


def _is_of(judge: JudgeConfig, path: str) -> bool:
    return isinstance(judge, RewardConfig) and judge.function == path


def _unasked(names: Sequence[str], settings: Settings) -> list[str]:
    asked = {name for suite in settings.suites.values() for name in suite.judges}
    return [name for name in names if name not in asked]


def rewarding(judges: Mapping[str, object], rewards: Mapping[str, object]) -> set[str]:
    """Names of the judges, as plain JSON, that are some of the rewards."""
    return {
        name
        for name, one in judges.items()
        if isinstance(one, Mapping) and one.get("function") in rewards
    }
