"""Sizes that images are trained at: the square, or the closest bucket to their aspect ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from soarbench.common.errors import ConfigError
from soarbench.data.config import ImageDataConfig

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""Width and height, pixels."""


def bucket_sizes(resolution: int, step: int, max_aspect_ratio: float) -> list[Size]:
    """Every bucket, from the tallest to the widest.

    For each width the tallest height whose area is at most ``resolution`` squared; sides are
    multiples of ``step``, and the longer is at most ``max_aspect_ratio`` times the shorter.

    Args:
        resolution: Side of the square, pixels; a multiple of ``step``.
        step: Pixels.
        max_aspect_ratio: At least 1.
    """
    shapes = []
    longest = math.floor(resolution * math.sqrt(max_aspect_ratio))
    for width in range(step, longest + 1, step):
        height = resolution**2 // width // step * step
        if height and max(width, height) <= max_aspect_ratio * min(width, height):
            shapes.append((width, height))
    # Each shape lying as well as standing: rounding may have found only one of the two.
    return sorted({*shapes, *((height, width) for width, height in shapes)})


def sizes_of(data: ImageDataConfig, resolution: int) -> list[Size]:
    """The buckets of a configuration; one square without bucketing."""
    if data.bucket_step is None:
        return [(resolution, resolution)]
    return bucket_sizes(resolution, data.bucket_step, data.max_aspect_ratio)


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> int:
    """Index of the bucket whose aspect ratio is closest, as a factor; the first of equals."""
    ratio = math.log(size[0] / size[1])
    distances = [abs(ratio - math.log(width / height)) for width, height in buckets]
    return distances.index(min(distances))


def is_smaller(size: Size, bucket: Size) -> bool:
    """Whether an image would have to be enlarged."""
    return size[0] < bucket[0] or size[1] < bucket[1]


def fit(image: Image.Image, bucket: Size) -> Image.Image:
    """Shrink an image until it just covers the bucket, then cut its centre out (Lanczos)."""
    from PIL import Image, ImageOps

    if image.size == bucket:
        return image
    return ImageOps.fit(image, bucket, Image.Resampling.LANCZOS)


def check_step(data: ImageDataConfig, resolution: int, unit: int, longest: int) -> None:
    """Refuse buckets that a model cannot take.

    Args:
        data: Says the step and the longest aspect ratio.
        resolution: Side of the square, pixels.
        unit: Pixels of an image that one token of the transformer stands for, along a side.
        longest: Side that it has positions for, pixels.

    Raises:
        ConfigError: Names the value and what would do.
    """
    step = data.bucket_step
    if step is None:
        return
    if step % unit:
        raise ConfigError(
            f"data.bucket_step={step}: must be a multiple of {unit}, the pixels of one token "
            f"(autoencoder and patches); use {-(-step // unit) * unit}"
        )
    if resolution % step:
        raise ConfigError(
            f"data.bucket_step={step}: must divide model.resolution={resolution}, so that the "
            f"square is one of the buckets; use {math.gcd(step, resolution)}"
        )
    side = max(max(size) for size in sizes_of(data, resolution))
    if side > longest:
        raise ConfigError(
            f"data.max_aspect_ratio={data.max_aspect_ratio:g}: gives images of {side} pixels, "
            f"but this model has positions for {longest}; lower it"
        )
