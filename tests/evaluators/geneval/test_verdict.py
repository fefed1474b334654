import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.base import Canary, EvaluatorError, Sample, Score
from evaluators.geneval.detectors import Detection
from evaluators.geneval.metadata import MetadataError, check_vocabulary, parse_request
from evaluators.geneval.verdict import (
    GenEval,
    indices_to_color,
    judge,
    relative_position,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "vectors.json").read_text())["geneval"]
DOG_BOX = (10.0, 10.0, 30.0, 30.0)


def metadata(*include, tag="single_object", exclude=()):
    return {"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": "a photo"}


def wanted(name, count=1, **extra):
    return {"class": name, "count": count, **extra}


def found(label, score=0.95, color=None, box=DOG_BOX):
    return Detection(label, box, score, color)


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_verdicts(case):
    verdict = judge(case["detections"], case["metadata"])
    assert verdict.correct == case["correct"]
    assert verdict.strict_correct == case["strict_correct"]
    assert verdict.strict_score == pytest.approx(case["strict_score"], abs=1e-8)


def test_golden_verdicts_do_not_depend_on_the_order_of_detections():
    rng = np.random.default_rng(0)
    for case in GOLDEN:
        shuffled = [case["detections"][i] for i in rng.permutation(len(case["detections"]))]
        verdict = judge(shuffled, case["metadata"])
        assert verdict.strict_score == pytest.approx(case["strict_score"], abs=1e-8)
        assert verdict.correct == case["correct"]


def test_reasons_are_given_exactly_for_failures():
    for case in GOLDEN:
        verdict = judge(case["detections"], case["metadata"])
        assert (verdict.reason == "") == verdict.correct
        assert (verdict.strict_reason == "") == verdict.strict_correct


def test_official_is_at_least_and_strict_is_exactly():
    verdict = judge([found("dog"), found("dog"), found("dog")], metadata(wanted("dog")))
    assert verdict.correct
    assert not verdict.strict_correct
    assert verdict.strict_score == 1 - abs(1 - 3) / 1
    assert verdict.strict_reason == 'expected exactly 1 "dog", found 3'


def test_exclusion_counts_only_for_the_official_verdict():
    asked = metadata(wanted("dog", 2), tag="counting", exclude=[wanted("dog", 3)])
    verdict = judge([found("dog")] * 3, asked)
    assert not verdict.correct
    assert verdict.reason == 'expected fewer than 3 "dog", found 3'
    assert verdict.strict_score == 0.5


@pytest.mark.parametrize(
    ("tag", "score", "counts"),
    [
        ("single_object", 0.3, False),
        ("single_object", 0.3000001, True),
        ("counting", 0.9, False),
        ("counting", 0.9000001, True),
    ],
)
def test_confidence_must_exceed_the_threshold(tag, score, counts):
    assert judge([found("dog", score)], metadata(wanted("dog"), tag=tag)).correct is counts


def test_sixteen_objects_of_a_class_at_most():
    verdict = judge([found("dog")] * 30, metadata(wanted("dog")))
    assert verdict.strict_score == 1 - 15


def test_color_is_read_from_the_most_confident_object():
    red = found("dog", 0.8, "red")
    blue = found("dog", 0.9, "blue")
    assert not judge([red, blue], metadata(wanted("dog", color="red"), tag="colors")).correct
    assert judge([red, blue], metadata(wanted("dog", color="blue"), tag="colors")).correct


def test_wrong_color_in_words():
    verdict = judge([found("dog", color="blue")], metadata(wanted("dog", color="red")))
    assert verdict.reason == 'expected 1 red "dog", found 1 blue'
    assert verdict.strict_score == 0.5


def test_unknown_color_is_an_error_not_a_wrong_answer():
    with pytest.raises(ValueError, match="has no colour"):
        judge([found("dog")], metadata(wanted("dog", color="red")))


def test_wrong_position_earns_three_quarters():
    asked = metadata(wanted("cat"), wanted("dog", position=["left of", 0]), tag="position")
    cat, dog = found("cat", box=(0, 0, 10, 10)), found("dog", box=(50, 0, 60, 10))
    verdict = judge([cat, dog], asked)
    assert verdict.strict_score == 0.75
    assert verdict.reason == 'expected "dog" left of "cat", found it right of that'


def test_missing_target_in_words():
    asked = metadata(wanted("cat"), wanted("dog", position=["left of", 0]), tag="position")
    verdict = judge([found("dog")], asked)
    assert verdict.reason.endswith('no target for "dog" to be left of')
    assert verdict.strict_score == pytest.approx((0 + 1 + 0) / 3)


def test_absent_objects_earn_nothing_for_color_either():
    verdict = judge([], metadata(wanted("dog", color="red"), tag="colors"))
    assert verdict.strict_score == 0.0
    assert verdict.reason == 'expected at least 1 "dog", found 0'


def test_opposite_relations_mirror_each_other():
    rng = np.random.default_rng(1)
    mirror = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for _ in range(300):
        corners = rng.uniform(0, 100, size=(2, 2, 2))
        a, b = (tuple(np.sort(c, axis=0).ravel()) for c in corners)
        assert {mirror[r] for r in relative_position(a, b)} == relative_position(b, a)


def test_positions_by_hand():
    unit = (0.0, 0.0, 10.0, 10.0)
    assert relative_position(unit, unit) == set()
    # The centres differ by a tenth of the summed widths, 2 pixels: no direction yet.
    assert relative_position((2.0, 0.0, 12.0, 10.0), unit) == set()
    assert relative_position((5.0, 0.0, 15.0, 10.0), unit) == {"right of"}
    assert relative_position((40.0, -40.0, 50.0, -30.0), unit) == {"right of", "above"}


def test_detections_as_mappings_and_objects_agree():
    asked = metadata(wanted("dog", color="red"))
    mapping = {"label": "dog", "box": [1, 2, 3, 4], "score": 0.5, "color": "red"}
    assert judge([mapping], asked) == judge([Detection("dog", (1, 2, 3, 4), 0.5, "red")], asked)


@pytest.mark.parametrize(
    ("detection", "message"),
    [
        ({"box": [0, 0, 1, 1], "score": 0.5}, "needs a label"),
        ({"label": "dog", "box": [0, 0, 1], "score": 0.5}, "box of 'dog'"),
        ({"label": "dog", "box": [0, 0, 1, 1], "score": 0.5, "color": 3}, "color of 'dog'"),
    ],
)
def test_malformed_detections(detection, message):
    with pytest.raises(ValueError, match=message):
        judge([detection], metadata(wanted("dog")))


def test_only_colors_that_matter_are_asked_for():
    asked = parse_request(metadata(wanted("dog", color="red"), wanted("cat"), wanted("bus", 2)))
    dogs = [found("dog", 0.5), found("dog", 0.8), found("dog", 0.2)]
    assert indices_to_color([*dogs, found("cat")], asked) == [1]
    two = parse_request(metadata(wanted("dog", 2, color="red")))
    assert indices_to_color(dogs, two) == [0, 1]
    assert indices_to_color(dogs[:1], two) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": None}, "tag is None"),
        ({"include": "dog"}, "include is 'dog'"),
        ({"include": [{"count": 1}]}, "class is None"),
        ({"include": [wanted("dog", 0)]}, "count is 0"),
        ({"include": [wanted("dog", True)]}, "count is True"),
        ({"include": [wanted("dog", color=1)]}, "color is 1"),
        ({"include": [wanted("dog", position=["left of", 0])]}, "position is"),
        ({"include": [wanted("cat"), wanted("dog", position=["near", 0])]}, "position is"),
    ],
)
def test_impossible_metadata_names_the_value(change, message):
    with pytest.raises(MetadataError, match=message):
        judge([], {**metadata(wanted("dog")), **change})


def test_null_color_and_position_count_as_absent():
    asked = metadata(wanted("dog", color=None, position=None))
    assert judge([found("dog")], asked).strict_score == 1.0


def test_unknown_names_come_with_a_remedy():
    request = parse_request(metadata(wanted("dogg")))
    with pytest.raises(MetadataError, match=r"unknown class 'dogg'.*did you mean dog"):
        check_vocabulary(request, ("dog", "cat"), ("red",))
    request = parse_request(metadata(wanted("dog", color="zzz")))
    with pytest.raises(MetadataError, match=r"unknown color 'zzz'.*known: red"):
        check_vocabulary(request, ("dog",), ("red",))


class ScriptedDetector:
    """Returns what the test wrote for each prompt."""

    name, version, weights_hash = "scripted", "7", "abc"
    class_names, color_names = ("dog", "cat"), ("red", "blue")

    def __init__(self, answers):
        self.answers = answers
        self.calls = 0

    def detect(self, images, metadatas):
        self.calls += 1
        assert len(images) == len(metadatas)
        return [self.answers[entry["prompt"]] for entry in metadatas]


def sample(sample_id, prompt, *include, tag="single_object"):
    return Sample(
        sample_id=sample_id,
        prompt_id=prompt,
        prompt=prompt,
        image=Image.new("RGB", (8, 8)),
        metadata={"tag": tag, "include": list(include), "prompt": prompt},
    )


ONE_DOG = sample("one", "a dog", wanted("dog"))
CANARIES = (Canary(good=ONE_DOG, bad=sample("none", "nothing", wanted("dog"))),)
ANSWERS = {
    "a dog": [found("dog")],
    "nothing": [],
    "two dogs": [found("dog"), found("dog")],
    "broken": [found("dog", math.nan)],
}


def test_scores_and_details():
    judged = GenEval(ScriptedDetector(ANSWERS), canaries=CANARIES)
    good, bad = judged.score([ONE_DOG, sample("x", "nothing", wanted("dog"))])
    assert (good.value, bad.value) == (1.0, 0.0)
    assert good.details["detections"] == {"dog": 1}
    assert bad.details["reason"] == 'expected at least 1 "dog", found 0'
    assert json.loads(json.dumps(dict(bad.details)))["tag"] == "single_object"
    assert judged.weights_hash == "scripted-7-abc"


def test_as_a_reward_it_is_the_partial_credit_of_the_strict_verdict():
    judged = GenEval(ScriptedDetector(ANSWERS), canaries=CANARIES)
    samples = [sample("x", "two dogs", wanted("dog", 4), tag="counting")]
    scores = judged.score(samples)
    assert (scores[0].value, judged.reward(scores[0])) == (0.0, 0.5)
    assert judged.aggregate(samples, scores)["strict_score"] == 0.5


def test_what_cannot_be_judged_is_known_from_the_metadata():
    judged = GenEval(ScriptedDetector(ANSWERS), canaries=CANARIES)
    judged.check("a dog", metadata(wanted("dog")))
    with pytest.raises(MetadataError, match="unknown class 'unicorn'"):
        judged.check("a unicorn", metadata(wanted("unicorn")))
    with pytest.raises(MetadataError, match="tag is None"):
        judged.check("a sign", {})


def test_a_failed_detection_is_unscored_and_counted():
    judged = GenEval(ScriptedDetector(ANSWERS), canaries=CANARIES)
    samples = [ONE_DOG, sample("x", "broken", wanted("dog"))]
    scores = judged.score(samples)
    assert math.isnan(scores[1].value)
    assert "not finite" in scores[1].reason
    summary = judged.aggregate(samples, scores)
    assert (summary["overall"], summary["unscored"]) == (1.0, 1.0)


def test_overall_is_the_mean_of_task_means_and_prompts_count_once():
    def score(name, tag, correct):
        details = {"correct": correct, "strict_correct": False, "strict_score": 0.25, "tag": tag}
        return Score(sample_id=name, value=float(correct), details=details)

    samples = [sample(str(i), f"p{i // 2}") for i in range(6)]
    tags = ["colors"] * 4 + ["position"] * 2
    verdicts = [True, False, True, True, False, False]
    scores = [score(str(i), *pair) for i, pair in enumerate(zip(tags, verdicts, strict=True))]
    summary = GenEval(ScriptedDetector({}), canaries=CANARIES).aggregate(samples, scores)
    assert summary == {
        "overall": (0.75 + 0) / 2,
        "colors": 0.75,
        "position": 0.0,
        "strict_overall": 0.0,
        "strict_score": 0.25,
        "images_correct": 3 / 6,
        "images_strict_score": 0.25,
        "prompts_correct": 2 / 3,
        "unscored": 0.0,
    }
    assert next(iter(summary)) == "overall"


def test_nothing_scored_gives_nan_not_zero():
    judged = GenEval(ScriptedDetector({}), canaries=CANARIES)
    summary = judged.aggregate([ONE_DOG], [Score.unscored("one", "broken")])
    assert math.isnan(summary["overall"])
    assert summary["unscored"] == 1.0


def test_unknown_class_is_refused_before_anything_is_detected():
    detector = ScriptedDetector(ANSWERS)
    judged = GenEval(detector, canaries=CANARIES)
    with pytest.raises(MetadataError, match="sample x: unknown class 'zebra'"):
        judged.score([ONE_DOG, sample("x", "a zebra", wanted("zebra"))])
    assert detector.calls == 0


def test_canaries_pass_with_a_seeing_and_stop_a_blind_detector():
    GenEval(ScriptedDetector(ANSWERS), canaries=CANARIES).check_canaries()
    blind = GenEval(ScriptedDetector({"a dog": [], "nothing": []}), canaries=CANARIES)
    with pytest.raises(EvaluatorError, match="canary 'one'"):
        blind.check_canaries()
    with pytest.raises(ValueError, match="at least one canary"):
        GenEval(ScriptedDetector({}), canaries=())


def test_judging_needs_no_deep_learning_framework():
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, open_clip=None)\n"
        "import evaluators.geneval.verdict, evaluators.geneval.detectors, evaluators.samples\n"
        "import evaluators.geneval.canaries"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
