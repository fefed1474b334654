"""Drawn pictures that tell whether a judge of images and prompts sees at all."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from evaluators.base import Canary, Sample


def shape_canaries(name: str) -> Sequence[Canary]:
    """A red circle and a blue square, each under its own prompt and under the other's."""
    wishes = ("a red circle", "a blue square")
    pairs = []
    for shown, other in (wishes, wishes[::-1]):
        image = _picture(shown)
        # One image under two prompts: a scorer that looks at the image alone fails as well.
        good, bad = (
            Sample.drawn(f"canary/{name}/{wish}", f"a photo of {wish}", image)
            for wish in (shown, other)
        )
        pairs.append(Canary(good=good, bad=bad))
    return pairs


def _picture(wish: str) -> Image.Image:
    _, color, shape = wish.split()
    image = Image.new("RGB", (1024, 1024), (235, 235, 235))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "circle" else draw.rectangle)((256, 256, 768, 768), fill=color)
    # Drawn large and scaled down: Pillow draws edges without smoothing.
    return image.resize((256, 256), Image.Resampling.LANCZOS)
