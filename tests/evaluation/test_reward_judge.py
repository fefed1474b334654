"""A user's own reward in tables: judged on the deciding suite, under its own facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from evaluators.base import EvaluatorError, Sample
from soarbench.common.code import code_of
from soarbench.common.errors import ConfigError
from soarbench.evaluation.reward_judge import RewardConfig
from soarbench.grid import addresses
from soarbench.grid.description import describe
from soarbench.grid.expand import expand
from soarbench.grid.reward_lookup import look_up_code
from soarbench.report.numbers.trained_on import trained_on
from soarbench.store.cells import Cell
from tests.rewards import brightness

WORDS = ["grid=reward_specific", "task=aesthetic", "method=flow_grpo"]
PATH = "tests.rewards.brightness"
GREY = Image.new("RGB", (4, 4))


def samples(*levels: int, **metadata: object) -> list[Sample]:
    return [
        Sample(
            sample_id=str(level), prompt_id="p", prompt="grey", metadata={**metadata, "n": level},
            image=Image.new("RGB", (4, 4), (level, level, level)),
        )
        for level in levels
    ]  # fmt: skip


def test_a_reward_function_stands_in_the_table_and_trains_what_it_did() -> None:
    plain, cells = (expand([*WORDS, *more]).cells for more in ([], [f"reward={PATH}"]))
    for before, cell in zip(plain, cells, strict=True):
        metrics = describe(cell, cells)["metrics"]
        assert set(metrics) - set(describe(before, plain)["metrics"]) == {"brightness"}
        assert cell.judges["brightness"] == RewardConfig(function=PATH)
    trained = cells[-1]
    # As it was before rewards were judges, so that stored trainings are its own.
    source = addresses.training(trained)
    assert source is not None
    assert source.content["rewards"] == {PATH: [1.0, None]}
    # Gaming is measured against what gave the rewards.
    stored = json.loads(json.dumps(describe(trained, cells)))
    cell = Cell(tables=None, description=stored, state="finished")  # type: ignore[arg-type]
    assert trained_on([cell]) == {PATH, "brightness", "aesthetic"}


def test_a_judge_of_the_users_own_keeps_its_title_and_a_taken_name_is_told_apart(
    tmp_path: Path,
) -> None:
    own = tmp_path / "judge" / "shine.yaml"
    own.parent.mkdir()
    own.write_text(
        f"_target_: {RewardConfig.__module__}.RewardConfig\n"
        f"function: {PATH}\nlabel: Shine\nlabel_unit: level\nlabel_decimals: 1\n"
    )
    (base, *_) = expand([*WORDS, f"reward={PATH}", f"conf_dir={tmp_path}"]).cells
    assert "brightness" not in base.judges
    facts = base.judges["shine"].facts()
    assert (facts["title"], facts["unit"], facts["decimals"]) == ("Shine", "level", 1)
    # Words change no address.
    assert base.judges["shine"].identity() == RewardConfig(function=PATH).identity()
    (base, *_) = expand([*WORDS, "reward=tests.rewards.aesthetic"]).cells
    assert (
        RewardConfig(function="tests.rewards.aesthetic") == base.judges["tests_rewards_aesthetic"]
    )


def test_a_registered_reward_whose_module_is_missing_is_named_by_its_setting(
    tmp_path: Path,
) -> None:
    own = tmp_path / "judge" / "shine.yaml"
    own.parent.mkdir()
    own.write_text(f"_target_: {RewardConfig.__module__}.RewardConfig\nfunction: absent.shine\n")
    judges = "suites.drawbench.judges=[oracle_aesthetic,aesthetic,shine]"
    cells = expand([*WORDS, judges, f"conf_dir={tmp_path}"]).cells
    message = r"judge\.shine\.function=absent\.shine: no module 'absent' can be found"
    with pytest.raises(ConfigError, match=message):
        look_up_code(cells)


def test_it_says_what_the_function_says_of_each_image() -> None:
    judge = RewardConfig(function=PATH).build()
    images = samples(10, 200)
    values = brightness(prompts=["grey"] * 2, images=[one.image for one in images])
    assert [score.value for score in judge.score(images)] == values
    facts = judge.config.facts()
    assert (facts["title"], facts["higher_is_better"]) == ("brightness", True)
    json.dumps(facts, allow_nan=False)
    assert "tests.rewards" in code_of(judge.config)


def picky(
    prompts: Sequence[str], images: Sequence[Image.Image], **columns: Sequence[object]
) -> list[float]:
    assert list(columns) == ["tag", "n"]
    if 200 in columns["n"]:
        raise KeyError("200")
    return brightness(prompts, images)


def test_an_image_that_it_fails_on_is_unscored_and_the_others_are_not() -> None:
    judge = RewardConfig(function=f"{__name__}:picky").build()
    first, second, third = judge.score(samples(10, 200, 30, tag="x", prompt="grey"))
    assert (first.value, third.value) == (10.0, 30.0)
    assert second.reason is not None
    assert "raised KeyError: '200'" in second.reason


def broken(**_: object) -> list[float]:
    raise EvaluatorError("the engine is gone")


def test_a_judge_that_is_broken_behind_it_ends_the_judging() -> None:
    judge = RewardConfig(function=f"{__name__}:broken").build()
    with pytest.raises(EvaluatorError, match="the engine is gone"):
        judge.score([Sample(sample_id="1", prompt_id="p", prompt="grey", image=GREY, metadata={})])


def test_a_function_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(EvaluatorError, match=r"module 'tests\.rewards' has no 'nothing'"):
        RewardConfig(function="tests.rewards.nothing").build()
