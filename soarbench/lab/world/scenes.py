"""The drawn world: a seeded renderer, and a style that makes pictures good or bad.

Everything here is a pure function of its arguments and of an explicit NumPy generator. Pixels are
``uint8`` RGB arrays of shape (64, 64, 3).
"""

from __future__ import annotations

import colorsys
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

IMAGE_SIZE = 64
SUPERSAMPLING = 4  # shapes are drawn four times larger and reduced, which gives soft edges
SHAPES = ("circle", "square", "triangle", "star", "heart")
COLOR_HUES = {"red": 0.0, "yellow": 52.0, "green": 125.0, "blue": 215.0, "purple": 285.0}
COLORS = tuple(COLOR_HUES)
RELATIONS = ("left of", "right of", "above", "below")
WORDS = (
    "CAT", "DOG", "SUN", "SKY", "BUS", "HAT", "MAP", "TEA",
    "CUP", "BOX", "KEY", "INK", "FLY", "JAM", "OWL", "ZEN",
)  # fmt: skip

Pixels = NDArray[np.uint8]


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
    """Everything the renderer needs."""

    objects: tuple[PlacedObject, ...]
    style: Style
    text: str | None = None
    sign_color: str | None = None
    grain_seed: int = 0
    offset: tuple[float, float] = field(default=(0.0, 0.0))


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


def _star(cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        reach = radius * (1.1 if corner % 2 == 0 else 0.46)
        angle = math.pi * corner / 5 - math.pi / 2
        points.append((cx + reach * math.cos(angle), cy + reach * math.sin(angle)))
    return points


def _heart(cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    turns = np.linspace(0, 2 * math.pi, 64)
    x = 16 * np.sin(turns) ** 3
    y = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)
    return [
        (cx + radius * a / 16, cy - radius * (b + 2.5) / 14.5) for a, b in zip(x, y, strict=True)
    ]


def _circle(cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    turns = np.linspace(0, 2 * math.pi, 64)
    return [(cx + radius * math.cos(t), cy + radius * math.sin(t)) for t in turns]


def outline_points(shape: str, cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    """Polygon of a shape whose bounding box is about ``2 * radius`` wide.

    Raises:
        ValueError: The shape is not one of ``SHAPES``.
    """
    if shape == "circle":
        return _circle(cx, cy, radius)
    if shape == "square":
        half = radius * 0.9
        corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        return [(cx + half * a, cy + half * b) for a, b in corners]
    if shape == "triangle":
        return [
            (cx, cy - radius),
            (cx + 1.05 * radius, cy + 0.85 * radius),
            (cx - 1.05 * radius, cy + 0.85 * radius),
        ]
    if shape == "star":
        return _star(cx, cy, radius)
    if shape == "heart":
        return _heart(cx, cy, radius)
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def color_rgb(color: str, saturation: float) -> tuple[int, int, int]:
    """Colour of an object at a given saturation, as 8-bit RGB."""
    red, green, blue = colorsys.hsv_to_rgb(COLOR_HUES[color] / 360, saturation, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _background(style: Style, offset: tuple[float, float]) -> Image.Image:
    """A grey ramp from top to bottom; ``offset`` tints it slightly (warm or cool)."""
    rows = style.lightness + style.gradient * (np.linspace(0, 1, IMAGE_SIZE) - 0.5)
    tint = np.array([offset[0], 0.0, offset[1]])
    levels = np.clip(rows[:, None] + tint[None, :], 0.02, 0.98)
    picture = np.repeat((255 * levels).astype(np.uint8)[:, None, :], IMAGE_SIZE, axis=1)
    size = IMAGE_SIZE * SUPERSAMPLING
    return Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)


def _scaled(points: list[tuple[float, float]], shift: float = 0.0) -> list[tuple[float, float]]:
    return [((x + shift) * SUPERSAMPLING, (y + shift) * SUPERSAMPLING) for x, y in points]


def _draw_shadows(
    canvas: Image.Image, outlines: list[list[tuple[float, float]]], style: Style
) -> None:
    mask = Image.new("L", canvas.size, 0)
    pen = ImageDraw.Draw(mask)
    for points in outlines:
        pen.polygon(_scaled(points, shift=1.5), fill=round(255 * style.shadow))
    canvas.paste((0, 0, 0), mask=mask)


def _draw_polygon(
    canvas: Image.Image, points: list[tuple[float, float]], color: str, style: Style
) -> None:
    rgb = color_rgb(color, style.saturation)
    pen = ImageDraw.Draw(canvas)
    pen.polygon(_scaled(points), fill=rgb)
    if style.outline > 0:
        dark = tuple(channel * 55 // 100 for channel in rgb)
        ring = [*points, points[0], points[1]]
        pen.line(
            _scaled(ring), fill=dark, width=round(style.outline * SUPERSAMPLING), joint="curve"
        )


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib  # only for the fonts that it carries; a third of a second to import

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), 22 * SUPERSAMPLING)


def _draw_sign(canvas: Image.Image, scene: Scene) -> None:
    assert scene.text is not None
    assert scene.sign_color is not None
    x, y = (scene.objects[0].x, scene.objects[0].y) if scene.objects else (32.0, 32.0)
    corners = [(x - 29, y - 14), (x + 29, y - 14), (x + 29, y + 14), (x - 29, y + 14)]
    if scene.style.shadow > 0:
        _draw_shadows(canvas, [corners], scene.style)
    _draw_polygon(canvas, corners, scene.sign_color, scene.style)
    ink = (20, 20, 20) if scene.sign_color == "yellow" else (255, 255, 255)
    pen = ImageDraw.Draw(canvas)
    where = (x * SUPERSAMPLING, y * SUPERSAMPLING)
    pen.text(where, scene.text, font=_font(), fill=ink, anchor="mm")


def render(scene: Scene) -> Pixels:
    """Draw a scene; the same scene always gives the same pixels. -> (64, 64, 3) uint8."""
    canvas = _background(scene.style, scene.offset)
    if scene.text is not None:
        _draw_sign(canvas, scene)
    else:
        outlines = [outline_points(o.shape, o.x, o.y, o.radius) for o in scene.objects]
        if scene.style.shadow > 0:
            _draw_shadows(canvas, outlines, scene.style)
        for placed, points in zip(scene.objects, outlines, strict=True):
            _draw_polygon(canvas, points, placed.color, scene.style)
    pixels = np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))
    if scene.style.grain > 0:
        grain_rng = np.random.default_rng(scene.grain_seed)
        grain = grain_rng.normal(0.0, 255 * scene.style.grain, pixels.shape)
        return np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return pixels.copy()
