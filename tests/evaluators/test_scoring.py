"""What a judge of anybody's may give, and what is said where it gives something else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from PIL import Image

from evaluators.base import Canary, Evaluator, EvaluatorError, JudgeConfig, Sample, Score
from evaluators.preference.aesthetic import AestheticConfig
from evaluators.scoring import checked_scores

PAIR = tuple(Sample.drawn(name, "red", Image.new("RGB", (4, 4), name)) for name in ("red", "blue"))


class GivenConfig(JudgeConfig):
    kind = "given"
    title = summary = unit = "Given"
    value_range = (0.0, 1.0)

    def build(self) -> Evaluator:
        return Given([])


class Given(Evaluator):
    """Gives what it is told to; raises what is an exception."""

    config: JudgeConfig = GivenConfig()

    def __init__(self, values: object) -> None:
        self.values = values

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        if isinstance(self.values, Exception):
            raise self.values
        if not isinstance(self.values, list):
            return self.values  # type: ignore[return-value]
        return [
            Score(sample_id=sample.sample_id, value=value) if isinstance(value, float) else value
            for sample, value in zip(samples, self.values, strict=False)
        ]

    def canaries(self) -> Sequence[Canary]:
        return (Canary(good=PAIR[0], bad=PAIR[1]),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "evaluator 'given' gave no list of Score, but None"),
        (["good", "bad"], "gave no list of Score"),
        ([0.5], "gave 1 scores for 2 images"),
        (
            [1.5, 0.0],
            r"gave 1\.5 for 'red', outside of value_range=\(0\.0.*GivenConfig",
        ),
        ([0.5, -math.inf], "gave -inf for 'blue', outside"),
    ],
)
def test_what_a_judge_may_not_give_is_named(values: object, message: str) -> None:
    for ask in (lambda: checked_scores(Given(values), PAIR), Given(values).check_canaries):
        with pytest.raises(EvaluatorError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_what_a_judge_raises_at_its_canaries_is_named() -> None:
    cause = KeyError("colour")
    with pytest.raises(
        EvaluatorError, match=r"'given' raised KeyError: 'colour' .*test_scoring\.py:\d+"
    ) as caught:
        Given(cause).check_canaries()
    assert caught.value.__cause__ is cause


def test_rounding_and_what_cannot_be_measured_are_no_faults() -> None:
    assert len(checked_scores(Given([1.0000001, -1e-7]), PAIR)) == 2
    unscored = [Score.unscored(one.sample_id, "too dark") for one in PAIR]
    assert checked_scores(Given(unscored), PAIR) == unscored


def test_a_learned_head_may_exceed_its_range() -> None:
    judge = Given([10.5, 0.9])
    judge.config = AestheticConfig()
    assert [score.value for score in checked_scores(judge, PAIR)] == [10.5, 0.9]


def test_a_reversed_range_is_refused_where_the_class_is_read() -> None:
    with pytest.raises(ValueError, match=r"Reversed\.value_range=\(1\.0, 0\.0\): write the least"):
        type("Reversed", (GivenConfig,), {"value_range": (1.0, 0.0)})
