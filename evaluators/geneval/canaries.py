"""Drawn streets with and without stop signs, whose GenEval verdicts are known."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw, ImageFont

from evaluators.base import Canary, Sample

_SIZE = 512
# Stop signs, because a drawn one looks like a real one; three sizes, because one found is enough.
_SIGNS = ((150, 190, 95), (350, 150, 65), (430, 330, 45))  # centre x, centre y, radius in pixels
# An octagon on an edge: Pillow's regular polygon rounds its corners, and other pixels come out.
_TURNS = [math.pi * (2 * corner + 1) / 8 for corner in range(8)]
_SKY, _ROAD, _GRASS = (176, 206, 232), (96, 96, 100), (96, 132, 78)
_RED, _WHITE, _POLE = (190, 24, 32), (245, 245, 245), (140, 142, 146)


def street_canaries() -> tuple[Canary, ...]:
    """One pair for detection, one for colour; all images 512 x 512."""
    # The first pair needs detector and order of classes, the second masks and colour model as well.
    signs, empty = draw_street(signs=True), draw_street(signs=False)
    detection = Canary(
        good=_sample("stop signs", signs, "single_object"),
        bad=_sample("an empty street", empty, "single_object"),
    )
    color = Canary(
        good=_sample("red stop signs", signs, "colors", color="red"),
        bad=_sample("red stop signs asked to be blue", signs, "colors", color="blue"),
    )
    return detection, color


def draw_street(*, signs: bool) -> Image.Image:
    """A street below a sky, with or without three stop signs."""
    image = Image.new("RGB", (_SIZE, _SIZE), _SKY)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 360, _SIZE, _SIZE), fill=_GRASS)
    pen.polygon([(0, _SIZE), (220, 360), (292, 360), (_SIZE, _SIZE)], fill=_ROAD)
    for x, y, radius in _SIGNS if signs else ():
        width, stroke = max(2, radius // 8), max(1, radius // 40)
        pen.rectangle((x - width / 2, y, x + width / 2, min(_SIZE, y + 3.2 * radius)), fill=_POLE)
        for reach, fill in ((radius, _WHITE), (0.92 * radius, _RED)):
            corners = [(x + reach * math.cos(turn), y + reach * math.sin(turn)) for turn in _TURNS]
            pen.polygon(corners, fill=fill)
        font = ImageFont.load_default(size=0.62 * radius)
        pen.text((x, y), "STOP", font=font, fill=_WHITE, anchor="mm", stroke_width=stroke)
    return image


def _sample(name: str, image: Image.Image, tag: str, **demand: str) -> Sample:
    include = [{"class": "stop sign", "count": 1, **demand}]
    return Sample.drawn(f"canary: {name}", f"a photo of {name}", image, tag=tag, include=include)
