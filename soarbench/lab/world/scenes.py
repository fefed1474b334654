"""The drawn world: a renderer, and a style that makes pictures good or bad; pure functions.

Pixels are ``uint8`` RGB arrays of shape (64, 64, 3).
"""

from __future__ import annotations

import colorsys
import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

IMAGE_SIZE = 64
# Shapes are drawn larger and reduced, since Pillow's polygons have hard edges.
SUPERSAMPLING = 4
# Few: with eight shapes and eight colours a prototype of the base came to 0.03 of GenEval in the 26
# minutes in which it came to 0.175 with five and six.
SHAPES = ("circle", "square", "triangle", "star", "heart")
# In degrees, far enough apart for the nearest hue to be the right one under any style.
COLOR_HUES = {"red": 0.0, "yellow": 52.0, "green": 125.0, "blue": 215.0, "purple": 285.0}
COLORS = tuple(COLOR_HUES)
Pixels = NDArray[np.uint8]
Points = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a picture looks, apart from what it shows.

    Attributes:
        lightness: Background lightness, 0..1.
        gradient: Lightness change from the top to the bottom edge, -0.3..0.3.
        saturation: Saturation of object colours, 0..1.
        outline: Width of the dark outline in pixels, 0..1.5.
        shadow: Opacity of the drop shadow, 0..0.5.
        grain: Standard deviation of pixel noise, 0..0.04 of full scale.
    """

    lightness: float
    gradient: float
    saturation: float
    outline: float
    shadow: float
    grain: float


CLEAN_STYLE = Style(
    lightness=0.85, gradient=0.1, saturation=0.9, outline=0.0, shadow=0.0, grain=0.0
)


@dataclass(frozen=True)
class PlacedObject:
    """One shape: its centre and half size in pixels."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """Everything the renderer needs; a text's place is that of the one object, without a shape."""

    objects: tuple[PlacedObject, ...]
    style: Style
    text: str | None = None
    sign_color: str | None = None
    grain_seed: int = 0
    offset: tuple[float, float] = (0.0, 0.0)


def random_style(rng: np.random.Generator) -> Style:
    """Draw a style from the broad distribution of the pre-training data."""
    return Style(
        lightness=float(rng.uniform(0.15, 0.95)),
        gradient=float(rng.uniform(-0.25, 0.25)),
        saturation=float(rng.uniform(0.5, 1.0)),
        outline=float(rng.choice([0.0, 1.0])),
        shadow=float(rng.choice([0.0, 0.4])),
        grain=float(rng.choice([0.0, 0.0, 0.04])),
    )


@functools.cache
def _outlines() -> dict[str, Points]:
    """Corners of each shape around the origin; its bounding box is about 2 wide."""
    turns = np.linspace(0, 2 * math.pi, 64)
    x = np.sin(turns) ** 3
    y = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)
    tips = [
        (1.1 if corner % 2 == 0 else 0.46, math.pi * (corner / 5 - 0.5)) for corner in range(10)
    ]
    return {
        "circle": [(math.cos(t), math.sin(t)) for t in turns],
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1), (1.05, 0.85), (-1.05, 0.85)],
        "star": [(reach * math.cos(angle), reach * math.sin(angle)) for reach, angle in tips],
        "heart": list(zip(x, -(y + 2.5) / 14.5, strict=True)),
    }


def _shapes(scene: Scene) -> list[tuple[Points, str]]:
    """What is drawn, each with its colour: the objects, or the board of the sign."""
    if scene.sign_color is not None:
        (at,) = scene.objects
        x1, y1, x2, y2 = at.x - 29, at.y - 14, at.x + 29, at.y + 14
        board = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        return [(board, scene.sign_color)]
    return [
        ([(o.x + o.radius * x, o.y + o.radius * y) for x, y in _outlines()[o.shape]], o.color)
        for o in scene.objects
    ]


def _background(style: Style, offset: tuple[float, float]) -> Image.Image:
    """A grey ramp from top to bottom; ``offset`` tints it warm or cool."""
    rows = style.lightness + style.gradient * (np.linspace(0, 1, IMAGE_SIZE) - 0.5)
    tint = np.array([offset[0], 0.0, offset[1]])
    # Never quite black or white, where nothing could be seen of a shadow or of grain.
    levels = np.clip(rows[:, None] + tint[None, :], 0.02, 0.98)
    picture = np.repeat((255 * levels).astype(np.uint8)[:, None, :], IMAGE_SIZE, axis=1)
    size = IMAGE_SIZE * SUPERSAMPLING
    return Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)


def _scaled(points: Points, shift: float = 0.0) -> Points:
    return [((x + shift) * SUPERSAMPLING, (y + shift) * SUPERSAMPLING) for x, y in points]


def _draw_shadows(canvas: Image.Image, outlines: list[Points], opacity: float) -> None:
    # In one mask for all: two shadows that cross are no darker than one.
    mask = Image.new("L", canvas.size, 0)
    pen = ImageDraw.Draw(mask)
    for points in outlines:
        pen.polygon(_scaled(points, shift=1.5), fill=round(255 * opacity))
    canvas.paste((0, 0, 0), mask=mask)


def _draw_polygon(canvas: Image.Image, points: Points, color: str, style: Style) -> None:
    channels = colorsys.hsv_to_rgb(COLOR_HUES[color] / 360, style.saturation, 0.9)
    rgb = tuple(round(255 * channel) for channel in channels)
    pen = ImageDraw.Draw(canvas)
    pen.polygon(_scaled(points), fill=rgb)
    if style.outline > 0:
        dark = tuple(channel * 55 // 100 for channel in rgb)
        # Past the start, so that the last corner is joined as well.
        ring = _scaled([*points, *points[:2]])
        pen.line(ring, fill=dark, width=round(style.outline * SUPERSAMPLING), joint="curve")


@functools.cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of the fonts that matplotlib carries, so that every machine draws the same letters."""
    import matplotlib  # a third of a second, which pictures without letters need not wait for

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size)


def _draw_text(canvas: Image.Image, scene: Scene) -> None:
    assert scene.text is not None
    # White is not to be read on yellow.
    ink = (20, 20, 20) if scene.sign_color == "yellow" else (255, 255, 255)
    where = (scene.objects[0].x * SUPERSAMPLING, scene.objects[0].y * SUPERSAMPLING)
    bold = font("DejaVuSans-Bold", 22 * SUPERSAMPLING)
    ImageDraw.Draw(canvas).text(where, scene.text, font=bold, fill=ink, anchor="mm")


def drawn_alone(shape: str, radius: float) -> Pixels:
    """A clean picture of one shape, for templates."""
    placed = PlacedObject(shape, COLORS[0], IMAGE_SIZE / 2, IMAGE_SIZE / 2, radius)
    return render(Scene((placed,), CLEAN_STYLE))


def render(scene: Scene) -> Pixels:
    """Draw a scene; the same scene always gives the same pixels. -> (64, 64, 3) uint8."""
    canvas = _background(scene.style, scene.offset)
    shapes = _shapes(scene)
    if scene.style.shadow > 0:
        _draw_shadows(canvas, [points for points, _ in shapes], scene.style.shadow)
    for points, color in shapes:
        _draw_polygon(canvas, points, color, scene.style)
    if scene.text is not None:
        _draw_text(canvas, scene)
    pixels = np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))
    if scene.style.grain > 0:
        # Of a seed in the scene: drawn again, it gives the same pixels.
        grain_rng = np.random.default_rng(scene.grain_seed)
        grain = grain_rng.normal(0.0, 255 * scene.style.grain, pixels.shape)
        return np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return pixels.copy()
