"""Contact sheets: rows of images beside their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

_TEXT_WIDTH, _MARGIN = 330, 6


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int = 128
) -> Image.Image:
    """One row a prompt: its text, then its images enlarged to ``side`` pixels. -> RGB."""
    columns = max(len(images) for _, images in rows)
    size = (_TEXT_WIDTH + columns * (side + _MARGIN), len(rows) * (side + _MARGIN))
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(str(path), 13)
    for index, (prompt, images) in enumerate(rows):
        top = index * (side + _MARGIN)
        pen.text((_MARGIN, top + side // 2), _wrapped(prompt), font=font, fill="black", anchor="lm")
        for column, image in enumerate(images):
            tile = image.resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (_TEXT_WIDTH + column * (side + _MARGIN), top))
    return canvas


def _wrapped(text: str, width: int = 40) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
