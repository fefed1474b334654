"""Buckets: what sizes there are, and which one an image goes to."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from soarbench.common.errors import ConfigError
from soarbench.data.buckets import bucket_sizes, fit, is_smaller, nearest_bucket
from soarbench.data.forms import JsonlDataConfig


def test_buckets_by_hand() -> None:
    assert bucket_sizes(64, 16, 2.0) == [(48, 80), (64, 64), (80, 48)]
    assert bucket_sizes(64, 16, 1.0) == [(64, 64)]


@pytest.mark.parametrize(("resolution", "step", "ratio"), [(512, 64, 2.0), (1024, 32, 4.0)])
def test_buckets_have_the_area_the_step_and_both_orientations(
    resolution: int, step: int, ratio: float
) -> None:
    found = bucket_sizes(resolution, step, ratio)
    assert (resolution, resolution) in found
    assert len(set(found)) == len(found) >= 5
    for width, height in found:
        assert width % step == height % step == 0
        assert resolution**2 - step * max(width, height) < width * height <= resolution**2
        assert max(width, height) <= ratio * min(width, height)
        assert (height, width) in found


def test_an_image_goes_to_the_closest_aspect_ratio() -> None:
    buckets = bucket_sizes(64, 16, 2.0)
    assert buckets[nearest_bucket((1000, 1000), buckets)] == (64, 64)
    assert buckets[nearest_bucket((1600, 1000), buckets)] == (80, 48)
    assert buckets[nearest_bucket((300, 2000), buckets)] == (48, 80)
    # Between 1 and 5/3 the border is at the square root of 5/3, about 1.29.
    assert buckets[nearest_bucket((128, 100), buckets)] == (64, 64)
    assert buckets[nearest_bucket((130, 100), buckets)] == (80, 48)


def test_fitting_keeps_the_centre_and_never_distorts() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255
    fitted = fit(Image.fromarray(pixels), (40, 40))
    assert fitted.size == (40, 40)
    assert np.asarray(fitted).min() > 250
    same = Image.fromarray(pixels)
    assert fit(same, (120, 40)) is same


def test_an_image_that_would_be_enlarged_is_smaller() -> None:
    assert is_smaller((63, 200), (64, 64))
    assert not is_smaller((64, 64), (64, 64))


@pytest.mark.parametrize(
    ("step", "unit", "longest", "message"),
    [
        (40, 16, 1584, r"bucket_step=40: must be a multiple of 16, .*; use 48"),
        (48, 16, 1584, r"bucket_step=48: must divide model\.resolution=512, .*; use 16"),
        (64, 16, 624, r"max_aspect_ratio=2: gives images of 640 pixels.* positions for 624"),
    ],
)
def test_buckets_that_a_model_cannot_take_are_refused(
    step: int, unit: int, longest: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        JsonlDataConfig(bucket_step=step).check_sizes(512, unit, longest)


def test_no_step_is_no_bucketing() -> None:
    JsonlDataConfig().check_sizes(512, 16, 8)
