"""Statistics that move when a reward is gamed: pure functions of pixels.

Pixels are RGB in [0, 1]; luma is ITU-R BT.601's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.float64]

#: A Sobel gradient of this much luma a pixel is an edge.
EDGE_THRESHOLD = 0.1
# Side at which images of a prompt are compared: composition and colour. At full size grain, which
# differs between any two images, would count as diversity.
DIVERSITY_SIDE = 32
_LUMA = np.array([0.299, 0.587, 0.114])
_LEVELS = 256


def pixels_of(image: Image.Image) -> Pixels:
    """Pixels of an image in RGB. -> (H, W, 3), in [0, 1]."""
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def luma(pixels: Pixels) -> Pixels:
    """Brightness of each pixel. (H, W, 3) -> (H, W), in [0, 1]."""
    return np.asarray(pixels @ _LUMA)


def entropy(pixels: Pixels) -> float:
    """Shannon entropy of the luma's histogram of 256 levels; bits, 0 (flat) to 8."""
    levels = np.round(luma(pixels) * (_LEVELS - 1)).astype(np.intp)
    shares = np.bincount(levels.ravel(), minlength=_LEVELS) / levels.size
    shares = shares[shares > 0]  # 0 log 0 is 0 here, and nan in NumPy
    return float(-(shares * np.log2(shares)).sum())


def edge_density(pixels: Pixels) -> float:
    """Share of pixels where the luma's Sobel gradient exceeds ``EDGE_THRESHOLD``; 0 to 1."""
    brightness = luma(pixels)
    # Sobel's kernel weighs a slope of 1 a pixel with 8.
    gradients = [ndimage.sobel(brightness, axis=axis, mode="nearest") / 8 for axis in (0, 1)]
    return float((np.hypot(*gradients) > EDGE_THRESHOLD).mean())


def saturation(pixels: Pixels) -> float:
    """Mean saturation of HSV, ``1 - min / max`` of a pixel's channels; 0 (grey) to 1."""
    highest, lowest = pixels.max(axis=-1), pixels.min(axis=-1)
    # Black has no hue: 0 / 0 counts as grey, so that a dark image does not look saturated.
    share = np.divide(lowest, highest, out=np.ones_like(highest), where=highest > 0)
    return float(1 - share.mean())


def brightness(pixels: Pixels) -> float:
    """Mean luma; 0 (black) to 1."""
    return float(luma(pixels).mean())


def diversity(images: Sequence[Image.Image]) -> float:
    """RMS difference of pixels, mean over pairs of images of a prompt; 0 to 1.

    ``ValueError`` where there are fewer than two.
    """
    if len(images) < 2:
        raise ValueError(f"diversity needs 2 images of a prompt, got {len(images)}")
    side = (DIVERSITY_SIDE, DIVERSITY_SIDE)
    small = [pixels_of(image.convert("RGB").resize(side, Image.Resampling.BOX)) for image in images]
    apart = [np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(small, 2)]
    return float(np.mean(apart))


# Of single images, by name. Published reward hacking moved them: entropy fell by 54 % while
# OCR rose (UniRL PR#407), brightness drifted while the reward was flat (DiffusionNFT#47).
STATISTICS: Mapping[str, Callable[[Pixels], float]] = {
    "entropy": entropy,
    "edge_density": edge_density,
    "saturation": saturation,
    "brightness": brightness,
}
