"""Sizes that images are trained at: the square, or the closest bucket to their aspect ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""Width and height, pixels."""


def bucket_sizes(resolution: int, step: int, max_aspect_ratio: float) -> list[Size]:
    """Every bucket, from the tallest to the widest.

    For each width the tallest height whose area is at most ``resolution`` squared, pixels; sides
    are multiples of ``step``, which divides ``resolution``, and the longer is at most
    ``max_aspect_ratio`` times the shorter.
    """
    shapes = []
    longest = math.floor(resolution * math.sqrt(max_aspect_ratio))
    for width in range(step, longest + 1, step):
        height = resolution**2 // width // step * step
        if height and max(width, height) <= max_aspect_ratio * min(width, height):
            shapes.append((width, height))
    # Each shape lying as well as standing: rounding may have found only one of the two.
    return sorted({*shapes, *((height, width) for width, height in shapes)})


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> int:
    """Index of the bucket whose aspect ratio is closest, as a factor; the first of equals."""
    # As a factor, so that a lying and a standing image are cut alike.
    ratio = math.log(size[0] / size[1])
    distances = [abs(ratio - math.log(width / height)) for width, height in buckets]
    return distances.index(min(distances))


def is_smaller(size: Size, bucket: Size) -> bool:
    """Whether an image would have to be enlarged."""
    # HY-SOAR enlarges such images; here they are refused, since a model learns the blur.
    return size[0] < bucket[0] or size[1] < bucket[1]


def fit(image: Image.Image, bucket: Size) -> Image.Image:
    """Shrink an image until it just covers the bucket, then cut its centre out (Lanczos)."""
    from PIL import Image, ImageOps

    if image.size == bucket:
        return image
    # HY-SOAR cuts at random, anew every time; latents that are kept need one cut for good. Of
    # square images both give the same pixels.
    return ImageOps.fit(image, bucket, Image.Resampling.LANCZOS)
