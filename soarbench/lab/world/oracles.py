"""Exact judges of the drawn world, from pixels alone: a detector and an aesthetic truth.

They use the palette and the shapes of ``scenes`` and nothing that was trained.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from evaluators.geneval.detectors import Detection
from soarbench.lab.world.scenes import COLOR_HUES, COLORS, IMAGE_SIZE, SHAPES, Pixels, drawn_alone

#: Pixels whose channels spread by more than this (0..1) belong to an object, not to the background.
CHROMA_THRESHOLD = 0.22
#: Components smaller than this many pixels are specks.
MIN_AREA = 60
_TEMPLATE_SIZE = 24
# Overlap with the best template that maps to detection scores 0 and 1; see tests/lab/test_oracles.
_OVERLAP_AT_ZERO, _OVERLAP_AT_ONE = 0.60, 0.80


@functools.cache
def _templates() -> NDArray[np.bool_]:
    """Masks of all shapes as rendered, small and large. -> (2, shapes, size, size)."""
    masks = [
        _stretched(_foreground(drawn_alone(shape, radius))[0])
        for radius in (11.0, 17.0)
        for shape in SHAPES
    ]
    return np.stack(masks).reshape(2, len(SHAPES), _TEMPLATE_SIZE, _TEMPLATE_SIZE)


def _foreground(pixels: Pixels) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which pixels belong to objects, and the palette colour of each. -> two (64, 64) arrays."""
    # Of the median, or the grain of some styles would be specks of colour.
    chroma, hue = _chroma_and_hue(ndimage.median_filter(pixels, size=(3, 3, 1)))
    hues = np.array(list(COLOR_HUES.values()))
    # Distances on a circle: red is at 0 and at 360 degrees.
    distance = np.abs((hue[..., None] - hues + 180) % 360 - 180)
    return chroma > CHROMA_THRESHOLD, np.asarray(distance.argmin(-1))


def _stretched(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Crop a mask to its bounding box and resize it to the template size."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    crop = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    picture = Image.fromarray((255 * crop).astype(np.uint8))
    size = (_TEMPLATE_SIZE, _TEMPLATE_SIZE)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) > 127


def _chroma_and_hue(pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Channel spread (0..1) and hue (degrees) of every pixel. -> two (H, W) arrays."""
    rgb = pixels.astype(np.float64) / 255
    chroma = rgb.max(2) - rgb.min(2)
    alpha = rgb[..., 0] - 0.5 * (rgb[..., 1] + rgb[..., 2])
    beta = np.sqrt(3) / 2 * (rgb[..., 1] - rgb[..., 2])
    return chroma, np.degrees(np.arctan2(beta, alpha)) % 360


def _component(mask: NDArray[np.bool_], color: NDArray[np.intp], scale: float) -> Detection:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    shape = _stretched(mask)
    templates = _templates()
    # The better of both sizes: on 64 pixels a small star is not a large one reduced.
    overlap = ((shape & templates).sum((2, 3)) / (shape | templates).sum((2, 3))).max(0)
    best = int(overlap.argmax())
    score = (overlap[best] - _OVERLAP_AT_ZERO) / (_OVERLAP_AT_ONE - _OVERLAP_AT_ZERO)
    votes = np.bincount(color[mask], minlength=len(COLORS))
    x1, y1, x2, y2 = (scale * float(v) for v in (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1))
    confidence = float(np.clip(score, 0, 1))
    return Detection(SHAPES[best], (x1, y1, x2, y2), confidence, COLORS[votes.argmax()])


def detect(pixels: Pixels) -> list[Detection]:
    """Find all shapes in a picture of any multiple of 64 pixels, by falling score.

    A shape is a connected region of colour; its class is the template of largest overlap and its
    score says how well that template fits.
    """
    picture = Image.fromarray(pixels).convert("RGB")
    small = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    foreground, colors = _foreground(np.asarray(small))
    labels, count = ndimage.label(foreground)
    masks = (labels == index for index in range(1, count + 1))
    scale = pixels.shape[1] / IMAGE_SIZE
    shapes = [_component(mask, colors, scale) for mask in masks if mask.sum() >= MIN_AREA]
    return sorted(shapes, key=lambda shape: -shape.score)


def aesthetic_truth(pixels: Pixels) -> float:
    """How good a picture looks here, 1..10: vivid, light, softly shaded and free of grain."""
    rgb = pixels.astype(np.float64) / 255
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    chroma, _ = _chroma_and_hue(pixels)
    object_pixels = chroma > CHROMA_THRESHOLD
    vivid = chroma[object_pixels].mean() / 0.85 if object_pixels.sum() >= MIN_AREA else 0.0
    # Left and right edge, four pixels each, which objects leave free: the background alone.
    edge = np.concatenate([luma[:, :4], luma[:, -4:]], axis=1)
    light = np.clip((edge.mean() - 0.15) / 0.7, 0, 1)
    shade = np.clip((edge[-8:].mean() - edge[:8].mean()) / 0.2, -1, 1) * 0.5 + 0.5
    grain = np.abs(luma - ndimage.median_filter(luma, size=3)).mean()
    clean = np.exp(-grain / 0.015)
    return float(1 + 9 * np.clip(0.3 * vivid + 0.3 * light + 0.2 * shade + 0.2 * clean, 0, 1))
