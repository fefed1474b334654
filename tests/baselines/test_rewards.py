import math

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.rewards.base import (
    Mixture,
    RewardError,
    checked_rewards,
    refusal,
    reward_name,
    runs_elsewhere,
    score_images,
    spread,
)
from baselines.rewards.evaluator import EvaluatorReward, resolve_reward
from evaluators.base import Canary, Evaluator, EvaluatorError, JudgeConfig, Sample, Score
from evaluators.ocr.evaluator import OcrConfig
from evaluators.preference.clipscore import ClipScoreConfig
from evaluators.preference.unifiedreward import UnifiedRewardConfig

IMAGES = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 100, 200)]
PROMPTS = ["a", "b", "c"]


def redness(*, images, **_):
    return [image.getpixel((0, 0))[0] / 100 for image in images]


def prompt_length(*, prompts, **_):
    return [float(len(prompt)) for prompt in prompts]


def with_column(*, bonus, **_):
    return bonus


NOT_CALLABLE = 3


# --- convention -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, -3.0],
        (1, 2.5, -3.0),
        np.array([1, 2.5, -3.0], dtype=np.float32),
        torch.tensor([1, 2.5, -3.0]),
        [torch.tensor(1.0), np.float32(2.5), -3],
    ],
)
def test_numbers_of_any_library_are_taken(values):
    assert checked_rewards("mine", values, 3) == [1.0, 2.5, -3.0]
    assert all(type(value) is float for value in checked_rewards("mine", values, 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], "'mine' returned 2 values for 3 images: return one an image"),
        ([1.0, math.nan, 2.0], "'mine' returned nan for image 1 of 3.*finite"),
        ([1.0, 2.0, -math.inf], "'mine' returned -inf for image 2 of 3"),
        ([None, 2.0, 1.0], "'mine' returned None for image 0 of 3"),
        (["1", 2.0, 1.0], "'mine' returned '1' for image 0"),
        ([True, 2.0, 1.0], "'mine' returned True for image 0"),
        ("abc", "'mine' returned str: return a list"),
        (None, "'mine' returned NoneType"),
        (torch.tensor(1.0), "'mine' returned float"),
        (torch.ones(3, 1), r"'mine' returned \[1.0\] for image 0"),
    ],
)
def test_a_wrong_answer_is_refused_by_name(values, message):
    with pytest.raises(RewardError, match=message):
        checked_rewards("mine", values, 3)


def test_columns_reach_the_reward():
    bonus = [3.0, 2.0, 1.0]
    scored = score_images(with_column, PROMPTS, IMAGES, {"bonus": bonus, "other": PROMPTS})
    assert scored == bonus
    with pytest.raises(RewardError, match="'with_column' returned 1 values for 3 images"):
        score_images(with_column, PROMPTS, IMAGES, {"bonus": [1.0]})


@pytest.mark.parametrize("separator", [".", ":"])
def test_a_reward_is_found_by_its_dotted_path(separator):
    found = resolve_reward(f"{__name__}{separator}redness")
    assert found is redness
    assert reward_name(found) == "redness"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("redness", "no dotted path"),
        ("", "no dotted path"),
        ("no_such_package.reward", "cannot import 'no_such_package'.*install"),
        (f"{__name__}.rednes", "has no 'rednes'; check the spelling"),
        (f"{__name__}.NOT_CALLABLE", "is a int: name a function"),
        (f"{__name__}.Mixture", "is a type: name a function"),
    ],
)
def test_a_path_without_a_reward_is_refused(path, message):
    with pytest.raises(RewardError, match=message):
        resolve_reward(path)


# --- mixture --------------------------------------------------------------------------------------


def test_mixture_by_hand():
    mixture = Mixture(
        {"redness": redness, "length": prompt_length}, {"redness": 2.0, "length": -0.5}
    )
    assert score_images(mixture, ["a", "bb", "cccc"], IMAGES, {}) == [-0.5, 1.0, 2.0]
    assert reward_name(mixture) == "2 redness + -0.5 length"


def test_scaled_parts_are_in_units_of_their_own_spread():
    parts = {"redness": redness, "length": prompt_length}
    mixture = Mixture(parts, {"redness": 2.0, "length": -0.5}, {"redness": 0.5, "length": 2.0})
    plain = Mixture(parts, {"redness": 4.0, "length": -0.25})
    arguments = (["a", "bb", "cccc"], IMAGES, {})
    assert score_images(mixture, *arguments) == score_images(plain, *arguments)
    assert reward_name(mixture) == "2 redness + -0.5 length"


def test_a_reward_without_spread_scales_nothing():
    assert spread("length", [1.0, 3.0]) == 1.0
    with pytest.raises(RewardError, match=r"2 images of the base \[3.0\]: .*reward_scale=own"):
        spread("length", [3.0, 3.0])
    with pytest.raises(RewardError, match="gives 0 images"):
        spread("length", [])


def test_a_part_that_fails_is_named():
    mixture = Mixture({"good": redness, "bad": lambda **_: [1.0]}, {"good": 1.0, "bad": 1.0})
    with pytest.raises(RewardError, match="'bad' returned 1 values for 3 images"):
        mixture(prompts=PROMPTS, images=IMAGES)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"redness": 1.0, "lenght": 1.0}, "length, lenght|lenght"),
        ({"redness": math.nan, "length": 1.0}, "nan of reward 'redness'"),
        ({"redness": 0.0, "length": 0.0}, "at least one weight"),
    ],
)
def test_impossible_mixtures_are_refused(weights, message):
    with pytest.raises(RewardError, match=message):
        Mixture({"redness": redness, "length": prompt_length}, weights)


def test_an_empty_mixture_is_refused():
    with pytest.raises(RewardError, match="at least one weight"):
        Mixture({}, {})


# --- evaluators -----------------------------------------------------------------------------------


class RednessConfig(JudgeConfig):
    kind = "redness"
    title = "Redness"
    summary = "share of red"
    value_range = (0.0, 2.55)
    unit = "share"

    def build(self):
        return Redness()


class PalenessConfig(RednessConfig):
    higher_is_better = False


class Redness(Evaluator):
    config = RednessConfig()
    canary_levels = (255, 0)

    def __init__(self):
        self.seen = []

    def score(self, samples):
        self.seen.extend(samples)
        return [self.measure(sample) for sample in samples]

    def measure(self, sample):
        if sample.prompt == "unreadable":
            return Score.unscored(sample.sample_id, "no words found")
        return Score(sample_id=sample.sample_id, value=sample.image.getpixel((0, 0))[0] / 100)

    def canaries(self):
        good, bad = (
            Sample(
                sample_id=f"canary/{level}",
                prompt_id="canary",
                prompt="red",
                image=Image.new("RGB", (4, 4), (level, 0, 0)),
            )
            for level in self.canary_levels
        )
        return [Canary(good=good, bad=bad)]


class Paleness(Redness):
    config = PalenessConfig()
    canary_levels = (0, 255)


class Reversed(Redness):
    canary_levels = (0, 255)


class Placed:
    """A user's own reward that says where it computes."""

    name = "placed"

    def __init__(self, runs_on):
        self.runs_on = runs_on


@pytest.mark.parametrize(
    ("place", "device", "expected"),
    [
        (None, "cuda:0", False),
        ("cpu", "cpu", False),
        ("cpu", "cuda:0", True),
        ("cuda:0", "cpu", True),
        ("cuda", "cuda:1", False),
        ("cuda:1", "cuda:1", False),
        ("cuda:0", "cuda:1", True),
        ("server", "cpu", True),
    ],
)
def test_where_a_reward_runs(place, device, expected):
    assert runs_elsewhere(Placed(place), torch.device(device)) is expected
    # A mixture has to wait for its slowest part, so one on the model's device keeps it there.
    mixture = Mixture({"a": Placed(place), "b": Placed("server")}, {"a": 1.0, "b": 1.0})
    assert runs_elsewhere(mixture, torch.device(device)) is expected


def test_a_reward_that_runs_nowhere_is_named():
    with pytest.raises(RewardError, match=r"'placed' says runs_on='moon'.*'cuda:1', or 'server'"):
        runs_elsewhere(Placed("moon"), torch.device("cpu"))


def test_judges_say_where_they_run():
    gpu = torch.device("cuda:0")
    assert not runs_elsewhere(EvaluatorReward(Redness()), gpu)
    assert runs_elsewhere(OcrConfig(), gpu)
    assert not runs_elsewhere(OcrConfig(device="gpu:0"), gpu)
    assert not runs_elsewhere(ClipScoreConfig(device="cuda"), gpu)
    assert runs_elsewhere(ClipScoreConfig(device="cpu"), gpu)
    assert runs_elsewhere(UnifiedRewardConfig(), torch.device("cpu"))


def test_an_evaluator_is_a_reward():
    reward = EvaluatorReward(Redness())
    metadata = [{"tag": "counting"}] * 3
    values = score_images(reward, PROMPTS, IMAGES, {"metadata": metadata, "row": [1, 2, 3]})
    assert values == [0.0, 1.0, 2.0]
    assert reward_name(reward) == "redness"
    samples = reward.evaluator.seen[2:]  # after the canaries
    assert [sample.prompt for sample in samples] == PROMPTS
    assert len({sample.sample_id for sample in samples}) == 3
    assert samples[1].metadata == {"tag": "counting", "row": 2}


def test_lower_is_better_is_turned_over():
    assert EvaluatorReward(Paleness())(prompts=PROMPTS, images=IMAGES) == [0.0, -1.0, -2.0]


class Quoting(Redness):
    """Judges prompts of one letter alone."""

    def check(self, prompt, metadata):
        if len(prompt) > 1 and not metadata.get("forgiven"):
            raise ValueError(f"{prompt!r} is too long")


class NeedsAName(Redness):
    def __init__(self, name):
        super().__init__()
        self.name = name


AN_EVALUATOR = Quoting()


def test_an_evaluator_is_found_by_its_dotted_path():
    for name in ("Redness", "AN_EVALUATOR"):
        reward = resolve_reward(f"{__name__}.{name}")
        assert score_images(reward, PROMPTS, IMAGES, {}) == [0.0, 1.0, 2.0]
    with pytest.raises(RewardError, match="NeedsAName cannot be made without arguments"):
        resolve_reward(f"{__name__}.NeedsAName")


def test_a_reward_may_refuse_a_prompt():
    reward = EvaluatorReward(Quoting())
    assert refusal(reward, "a", {}) == ""
    assert refusal(reward, "ab", {}) == "'ab' is too long"
    assert refusal(reward, "ab", {"metadata": {"forgiven": True}}) == ""
    assert refusal(redness, "ab", {}) == ""


def test_a_part_that_cannot_judge_a_prompt_adds_nothing_to_its_images():
    picky = EvaluatorReward(Quoting())
    mixture = Mixture({"picky": picky, "length": prompt_length}, {"picky": 10.0, "length": 0.5})
    columns = {"metadata": [{}, {}, {"forgiven": True}]}
    assert score_images(mixture, ["a", "bb", "ccc"], IMAGES, columns) == [0.5, 1.0, 21.5]
    assert [sample.prompt for sample in picky.evaluator.seen[2:]] == ["a", "ccc"]
    assert refusal(mixture, "bb", {}) == ""


def test_a_prompt_that_no_part_can_judge_is_refused():
    mixture = Mixture(
        {"one": EvaluatorReward(Quoting()), "two": EvaluatorReward(Quoting())},
        {"one": 0.5, "two": 0.5},
    )
    assert refusal(mixture, "a", {}) == ""
    assert refusal(mixture, "ab", {}) == "one: 'ab' is too long; two: 'ab' is too long"
    assert mixture(prompts=["ab"], images=IMAGES[:1]) == [0.0]


def test_an_unscored_image_stops_the_run():
    reward = EvaluatorReward(Redness())
    with pytest.raises(
        RewardError, match=r"'redness' could not score image 1 of 3.*no words found"
    ):
        reward(prompts=["a", "unreadable", "c"], images=IMAGES)


class Stumbling(Redness):
    """Reads no image whose red is 7."""

    def measure(self, sample):
        if sample.image.getpixel((0, 0))[0] == 7:
            return Score.unscored(sample.sample_id, "no answer")
        return super().measure(sample)


def test_an_image_that_fails_beside_others_of_its_prompt_gets_their_mean(caplog):
    reds = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (10, 7, 40, 20)]
    reward = EvaluatorReward(Stumbling())
    assert reward(prompts=["a", "a", "a", "b"], images=reds) == [0.1, 0.25, 0.4, 0.2]
    assert (
        "could not score image 1 of 4, prompt 'a': no answer; it gets its prompt's" in caplog.text
    )
    # Half of a prompt's images are no stumble.
    with pytest.raises(RewardError, match="image 1 of 4, prompt 'a': no answer; use prompts"):
        reward(prompts=["a", "a", "b", "b"], images=reds)


def test_an_evaluator_whose_canaries_fail_is_no_reward():
    with pytest.raises(EvaluatorError, match="does not work here"):
        EvaluatorReward(Reversed())
