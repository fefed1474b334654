"""Rewards of TRL's convention, good and bad."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image


def brightness(
    prompts: Sequence[str], images: Sequence[Image.Image], **_columns: Sequence[object]
) -> list[float]:
    assert len(prompts) == len(images)
    return [float(np.asarray(image).mean()) for image in images]


def one_short(
    prompts: Sequence[str], images: Sequence[Image.Image], **_columns: Sequence[object]
) -> list[float]:
    return brightness(prompts, images)[1:]


def not_a_number(
    prompts: Sequence[str], images: Sequence[Image.Image], **_columns: Sequence[object]
) -> list[float]:
    return [math.nan for _ in brightness(prompts, images)]
