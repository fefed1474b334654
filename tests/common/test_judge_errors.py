"""What judges refuse is said with the key that a command line takes."""

from __future__ import annotations

import pytest

from evaluators.geneval.config import GenEvalConfig
from evaluators.preference.clipscore import ClipScoreConfig
from evaluators.weights import WeightsError
from soarbench.common.judge_errors import of_judge

GENEVAL = GenEvalConfig()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            f"color_model={GENEVAL.color_model}: no such path",
            f"judge.mine.color_model={GENEVAL.color_model}: no such path; 'python -m soarbench "
            "fetch mine' gets it with a network",
        ),
        ("weights=/nowhere: no such path", "judge.clip.weights=/nowhere: no such path"),
        ("weights=/other: no\nsuch path", "weights=/other: no such path"),
        ("color_model is damaged", "color_model is damaged"),
    ],
)
def test_a_setting_of_a_judge_is_named_by_its_whole_key(message: str, said: str) -> None:
    judges = {"mine": GENEVAL, "clip": ClipScoreConfig(weights="/nowhere")}
    assert of_judge(WeightsError(message), judges) == said
