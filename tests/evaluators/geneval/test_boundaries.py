"""GenEval just inside and just outside of each of its limits."""

import pytest
from PIL import Image

from evaluators.base import Canary, Sample, Score
from evaluators.geneval.detectors import Detection
from evaluators.geneval.verdict import GenEval, confident_indices, judge, relative_position

BOX = (10.0, 10.0, 30.0, 30.0)
#: Widths 30 and 10, heights 10 and 20: a tenth of the sums is 4 along x and 3 along y.
TARGET = (100.0, 100.0, 110.0, 120.0)
MARGINS = {"left of": 4.0, "right of": 4.0, "above": 3.0, "below": 3.0}
SIGNS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def box_at(x, y, width=30.0, height=10.0):
    """A box whose centre is (x, y) from that of ``TARGET``."""
    x, y = 105.0 + x, 110.0 + y
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


@pytest.mark.parametrize("relation", SIGNS)
def test_along_an_axis_a_direction_begins_at_twice_the_margin(relation):
    # What the margin leaves must exceed half of the offset: offset - margin > offset / 2.
    (x, y), edge = SIGNS[relation], 2 * MARGINS[relation]
    assert relative_position(box_at(x * edge, y * edge), TARGET) == set()
    inside, outside = edge * 0.999, edge * 1.001
    assert relative_position(box_at(x * inside, y * inside), TARGET) == set()
    assert relative_position(box_at(x * outside, y * outside), TARGET) == {relation}


@pytest.mark.parametrize("relation", SIGNS)
def test_the_same_boundary_decides_a_verdict(relation):
    asked = {
        "tag": "position",
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": [relation, 0]},
        ],
    }
    (x, y), edge = SIGNS[relation], 2 * MARGINS[relation]
    for factor, correct in ((0.999, False), (1.001, True), (-1.001, False)):
        dog = Detection("dog", box_at(x * edge * factor, y * edge * factor), 0.9)
        verdict = judge([Detection("cat", TARGET, 0.9), dog], asked)
        assert verdict.correct is correct
        assert verdict.strict_correct is correct


@pytest.mark.parametrize("horizontal", ["left of", "right of"])
@pytest.mark.parametrize("vertical", ["above", "below"])
def test_a_diagonal_counts_on_both_axes_up_to_sixty_degrees(horizontal, vertical):
    # Boxes without extent have no margin: half of the offset is the cosine of 60 degrees.
    point = (0.0, 0.0, 0.0, 0.0)
    x, y = SIGNS[horizontal][0], SIGNS[vertical][1]

    def relations(along, across):
        return relative_position((along, across, along, across), point)

    assert relations(x, 1.731 * y) == {horizontal, vertical}
    assert relations(x, 1.733 * y) == {vertical}
    assert relations(1.731 * x, y) == {horizontal, vertical}
    assert relations(1.733 * x, y) == {horizontal}


def test_centres_a_thousandth_of_a_pixel_apart_have_no_direction():
    point = (0.0, 0.0, 0.0, 0.0)
    assert relative_position((0.0009, 0.0, 0.0009, 0.0), point) == set()
    assert relative_position((0.0011, 0.0, 0.0011, 0.0), point) == {"right of"}


def dogs(count, score=0.95):
    return [Detection("dog", BOX, score) for _ in range(count)]


def wanted(count, tag="counting", **extra):
    return {"tag": tag, "include": [{"class": "dog", "count": count}], **extra}


@pytest.mark.parametrize(
    ("present", "asked", "official", "exact"),
    [(15, 16, False, False), (16, 16, True, True), (17, 16, True, True), (17, 17, False, False)],
)
def test_no_more_than_sixteen_of_a_class_are_counted(present, asked, official, exact):
    verdict = judge(dogs(present), wanted(asked))
    assert (verdict.correct, verdict.strict_correct) == (official, exact)


def test_the_sixteen_are_the_surest_of_each_class():
    cats = [Detection("cat", BOX, 0.99) for _ in range(20)]
    detections = [*dogs(4, 0.5), *dogs(16, 0.95), *cats]
    assert {
        label: sorted(rows) for label, rows in confident_indices(detections, "counting").items()
    } == {"dog": list(range(4, 20)), "cat": list(range(24, 40))}


@pytest.mark.parametrize(
    ("tag", "score", "counts"),
    [
        *[(tag, 0.3, False) for tag in ("two_object", "colors", "position", "color_attr")],
        *[(tag, 0.30001, True) for tag in ("two_object", "colors", "position", "color_attr")],
        ("counting", 0.9, False),
        ("counting", 0.90001, True),
        ("counting", 0.30001, False),
    ],
)
def test_a_score_equal_to_the_threshold_does_not_count(tag, score, counts):
    verdict = judge(dogs(1, score), wanted(1, tag))
    assert verdict.correct is counts
    assert bool(confident_indices(dogs(1, score), tag)) is counts


@pytest.mark.parametrize(("present", "correct"), [(2, True), (3, False), (4, False)])
def test_exclusion_begins_at_its_count(present, correct):
    asked = wanted(2, exclude=[{"class": "dog", "count": 3}])
    assert judge(dogs(present), asked).correct is correct


# --- weights of the means -------------------------------------------------------------------------


class Blind:
    name, version, weights_hash = "blind", "1", ""
    class_names, color_names = ("dog",), ("red",)

    def detect(self, images, _metadatas):
        return [[] for _ in images]


def aggregate(rows):
    """Summary of rows (task, prompt, correct, strictly correct, strict score)."""
    samples, scores = [], []
    for number, (tag, prompt, correct, strict, credit) in enumerate(rows):
        name = str(number)
        image = Image.new("RGB", (1, 1))
        samples.append(Sample(sample_id=name, prompt_id=prompt, prompt=prompt, image=image))
        details = {"correct": correct, "strict_correct": strict, "strict_score": credit, "tag": tag}
        scores.append(Score(sample_id=name, value=float(correct), details=details))
    canary = Canary(good=samples[0], bad=samples[0])
    return GenEval(Blind(), canaries=[canary]).aggregate(samples, scores)


def test_tasks_weigh_alike_whatever_images_they_have():
    rows = [("counting", f"c{i}", i > 0, i > 1, i / 8) for i in range(4)]
    rows += [("colors", "red", False, True, 1.0)]
    summary = aggregate(rows)
    # counting: 3/4, 2/4 and 6/32; colors: 0, 1 and 1. Over images they would be .6, .6 and .35.
    assert (summary["counting"], summary["colors"]) == (0.75, 0.0)
    assert summary["overall"] == 0.375
    assert summary["strict_overall"] == 0.75
    assert summary["strict_score"] == (6 / 32 + 1) / 2
    assert summary["images_correct"] == 3 / 5


def test_an_image_weighs_alike_within_its_task_and_a_prompt_in_the_share_of_prompts():
    # Three images of one prompt, one of the other: 3/4 of the images, all of the prompts or half.
    first, second = ("colors", "a", False, False, 0.0), ("colors", "b", True, True, 1.0)
    summary = aggregate([("colors", "a", True, True, 1.0)] * 2 + [first, second])
    assert summary["overall"] == summary["strict_score"] == summary["images_correct"] == 0.75
    assert summary["prompts_correct"] == 1.0
    assert aggregate([first] * 3 + [second])["prompts_correct"] == 0.5
