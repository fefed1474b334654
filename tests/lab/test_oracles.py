"""The exact judges of the drawn world."""

import numpy as np
import pytest
from PIL import Image

from soarbench.lab.build.card import detector_accuracy
from soarbench.lab.world import grammar, oracles, scenes


def test_detector_reads_fresh_clean_renders_of_every_task():
    accuracy = detector_accuracy(100, seed=11)
    assert set(accuracy) == set(grammar.TASKS)
    assert min(accuracy.values()) >= 0.98, accuracy


def test_detector_survives_every_style():
    rng = np.random.default_rng(5)
    hits = []
    for _ in range(100):
        sample = grammar.training_sample(rng)
        if sample.composition.text is None:
            found = sorted((s.label, s.color) for s in oracles.detect(scenes.render(sample.scene)))
            hits.append(found == sorted((o.shape, o.color) for o in sample.scene.objects))
    assert np.mean(hits) >= 0.97


def test_boxes_are_where_the_shape_was_drawn():
    placed = scenes.PlacedObject("square", "blue", 20.0, 40.0, 10.0)
    picture = scenes.render(scenes.Scene((placed,), scenes.CLEAN_STYLE))
    (found,) = oracles.detect(picture)
    assert (found.label, found.color) == ("square", "blue")
    assert np.allclose(found.box, (11, 31, 29, 49), atol=1.5)


def test_boxes_scale_with_the_picture():
    placed = scenes.PlacedObject("star", "red", 32.0, 32.0, 16.0)
    small = scenes.render(scenes.Scene((placed,), scenes.CLEAN_STYLE))
    large = np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.NEAREST))
    assert oracles.detect(large)[0].box == tuple(4 * e for e in oracles.detect(small)[0].box)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_nothing_is_found_on_an_empty_picture(level):
    assert oracles.detect(np.full((64, 64, 3), level, np.uint8)) == []


def test_a_shapeless_blob_scores_lower_than_a_shape():
    rng = np.random.default_rng(0)
    picture = np.full((64, 64, 3), 220, np.uint8)
    picture[rng.random((64, 64)) < 0.5] = (230, 20, 20)
    assert all(shape.score < 0.3 for shape in oracles.detect(picture))


@pytest.mark.parametrize(
    ("change", "better"),
    [
        ({"saturation": 0.5}, False),
        ({"lightness": 0.3}, False),
        ({"gradient": -0.2}, False),
        ({"grain": 0.04}, False),
        ({"gradient": 0.25}, True),
    ],
)
def test_aesthetic_truth_falls_with_each_fault(change, better):
    import dataclasses

    placed = (scenes.PlacedObject("heart", "red", 32.0, 32.0, 16.0),)
    clean = oracles.aesthetic_truth(scenes.render(scenes.Scene(placed, scenes.CLEAN_STYLE)))
    style = dataclasses.replace(scenes.CLEAN_STYLE, **change)
    changed = oracles.aesthetic_truth(scenes.render(scenes.Scene(placed, style)))
    assert (changed > clean) is better
    assert 1 <= changed <= 10
