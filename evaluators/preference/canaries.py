"""Drawn pairs whose order every scorer of prompts must get right; imports no framework."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from evaluators.base import Canary, Sample


def shape_canaries(name: str) -> Sequence[Canary]:
    """A red circle and a blue square, each under its own prompt and under the other's."""
    wishes = ("a red circle", "a blue square")
    return tuple(
        prompt_canary(name, _picture(good), good, bad) for good, bad in (wishes, wishes[::-1])
    )


def prompt_canary(name: str, image: Image.Image, good: str, bad: str) -> Canary:
    """The same image under a prompt that fits and one that does not."""
    first, second = (
        Sample(
            sample_id=f"canary/{name}/{image_of}",
            prompt_id=image_of,
            prompt=f"a photo of {image_of}",
            image=image,
        )
        for image_of in (good, bad)
    )
    return Canary(good=first, bad=second)


def _picture(wish: str) -> Image.Image:
    """A shape on a plain light ground, 256 px, drawn large and scaled down for smooth edges."""
    _, color, shape = wish.split()
    image = Image.new("RGB", (1024, 1024), (235, 235, 235))
    draw = ImageDraw.Draw(image)
    box = (256, 256, 768, 768)
    if shape == "circle":
        draw.ellipse(box, fill=color)
    else:
        draw.rectangle(box, fill=color)
    return image.resize((256, 256), Image.Resampling.LANCZOS)
