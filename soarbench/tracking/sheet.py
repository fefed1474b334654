"""A sheet of sample images with their prompts, for MLflow's page."""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw

from soarbench.store.cells import Cell

_COLUMNS, _ROWS, _SIDE, _CAPTION_HEIGHT = 6, 4, 160, 36


def sample_sheet(cell: Cell, step: int) -> Image.Image:
    """Images of evenly spaced prompts with their prompts; the same ones at every step."""
    rows = cell.tables.scores().select(["prompt_id", "prompt", "image_index"]).to_pylist()
    # An image has a row a judge and step.
    pairs = list({(row["prompt_id"], row["image_index"]): row["prompt"] for row in rows}.items())
    count = min(_COLUMNS * _ROWS, len(pairs))
    height = _SIDE + _CAPTION_HEIGHT
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, -(-count // _COLUMNS) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for place in range(count):
        (prompt_id, index), prompt = pairs[place * len(pairs) // count]
        x, y = place % _COLUMNS * _SIDE, place // _COLUMNS * height
        image = cell.image(step, prompt_id, index)
        if image is not None:
            sheet.paste(image.convert("RGB").resize((_SIDE - 4,) * 2), (x + 2, y + 2))
        # Three lines of 25 letters fill the caption of Pillow's own font.
        caption = "\n".join(textwrap.wrap(prompt, 25)[:3])
        pen.multiline_text((x + 3, y + _SIDE), caption, fill="black", spacing=1)
    return sheet
