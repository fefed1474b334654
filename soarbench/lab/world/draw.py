"""Pictures for people: prompts drawn into GenEval's folder layout, and contact sheets."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from soarbench.common.errors import UserError
from soarbench.lab.world.grammar import lay_out, split
from soarbench.lab.world.scenes import font, random_style, render

_TEXT_WIDTH, _SIDE, _MARGIN = 330, 128, 6
SUITES = ("lab_geneval", "lab_ocr", "lab_drawbench")


def draw_suite(
    path: Path, suite: str = "lab_geneval", images_per_prompt: int = 2, wrong: float = 0.2
) -> int:
    """Draw every prompt of a suite into a new folder. -> how many pictures.

    A share ``wrong`` of them, 0..1, shows the next prompt instead, so that a judge has something to
    find. ``UserError`` where the folder exists or a value cannot work.
    """
    if suite not in SUITES:
        raise UserError(f"suite={suite!r}: choose one of {', '.join(SUITES)}")
    if images_per_prompt < 1 or not 0 <= wrong <= 1:
        raise UserError(
            f"images_per_prompt={images_per_prompt} wrong={wrong}: must be at least 1, and in 0..1"
        )
    if path.exists():
        raise UserError(f"output={path} exists; nothing was written over, choose another")
    compositions = getattr(split(), suite.removeprefix("lab_"))
    # Renamed when it is whole, so that an interrupted one is neither judged nor in the way.
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for number, composition in enumerate(compositions):
        folder = partial / f"{number:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps(composition.metadata()) + "\n")
        for index in range(images_per_prompt):
            rng = np.random.default_rng((number, index))
            other = compositions[(number + 1) % len(compositions)]
            shown = other if rng.random() < wrong else composition
            picture = render(lay_out(shown, random_style(rng), rng))
            Image.fromarray(picture).save(folder / "samples" / f"{index:04d}.png")
    partial.rename(path)
    return len(compositions) * images_per_prompt


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
