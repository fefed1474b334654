"""Contact sheets: rows of images beside their prompts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from soarbench.lab.world.scenes import font

_TEXT_WIDTH, _SIDE, _MARGIN = 330, 128, 6


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """One row a prompt: its text, then its images, enlarged. -> RGB."""
    columns, cell = max(len(images) for _, images in rows), _SIDE + _MARGIN
    size = (_TEXT_WIDTH + columns * cell, len(rows) * cell)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    small = font("DejaVuSans", 13)
    for index, (prompt, images) in enumerate(rows):
        where = (_MARGIN, index * cell + _SIDE // 2)
        pen.text(where, textwrap.fill(prompt, 40), font=small, fill="black", anchor="lm")
        for column, image in enumerate(images):
            # Not smoothed: the sheet is for looking at what 64 pixels hold.
            tile = image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            canvas.paste(tile, (_TEXT_WIDTH + column * cell, index * cell))
    return canvas
