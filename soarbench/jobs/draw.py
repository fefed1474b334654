"""Evaluation images: one PNG a (step, prompt, index), whose noise is a function of the last two."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw

from soarbench.common.files import write_atomically
from soarbench.config.settings import CellConfig
from soarbench.data.prompts import PromptItem
from soarbench.evaluation.protocol import planned_images
from soarbench.store.cell_folder import CellFolder

Draw = Callable[[Sequence[tuple[PromptItem, int]]], list[Image.Image]]
"""Draws the images of (prompt, image index) pairs, in order."""

_SHEET_COLUMNS, _SHEET_ROWS, _SHEET_SIDE, _CAPTION_HEIGHT = 6, 4, 160, 36


class Counter(Protocol):
    """Told how many images there are."""

    def advance(self, count: int = 1) -> None:
        """More were made."""
        ...

    def skip(self, count: int = 1) -> None:
        """More were found, made by an earlier launch."""
        ...


def sample_step(
    cell: CellConfig,
    folder: CellFolder,
    step: int,
    draw: Callable[[], Draw],
    progress: Counter,
) -> None:
    """Make the images of one step that do not exist yet, and their sheet.

    Args:
        cell: Whose images.
        folder: Its files.
        step: Of training.
        draw: Loads the step's weights; called only if an image is missing.
        progress: Counts images.
    """
    loaded = functools.cache(draw)
    for suite in cell.suites.values():
        plan = planned_images(suite)
        paths = [folder.image(step, item.prompt_id, index) for item, index in plan]
        draw_missing(plan, paths, cell.sampling.batch_size, loaded, progress)
    if not folder.sheet(step).is_file():
        sheet = sample_sheet(cell, folder, step)
        write_atomically(folder.sheet(step), functools.partial(_save_png, sheet))


def draw_missing(
    plan: Sequence[tuple[PromptItem, int]],
    paths: Sequence[Path],
    batch_size: int,
    draw: Callable[[], Draw],
    progress: Counter,
) -> None:
    """Draw the planned images that do not exist yet.

    Batches are cut from the whole plan, not from what is missing: a resumed run then repeats the
    interrupted batch as it was, and matrix products of another batch size, which differ in the
    last bits, cannot change an image.

    Args:
        plan: Every (prompt, image index).
        paths: Where each goes.
        batch_size: Images at once.
        draw: Loads the weights; called only if an image is missing.
        progress: Counts images.
    """
    for start in range(0, len(plan), batch_size):
        part = slice(start, start + batch_size)
        if all(path.is_file() for path in paths[part]):
            progress.skip(len(plan[part]))
            continue
        for path, image in zip(paths[part], draw()(plan[part]), strict=True):
            write_atomically(path, functools.partial(_save_png, image))
        progress.advance(len(plan[part]))


def _save_png(image: Image.Image, path: Path) -> None:
    image.save(path, "PNG")


def sample_sheet(cell: CellConfig, folder: CellFolder, step: int) -> Image.Image:
    """Images of evenly spaced prompts with their prompts; the same ones at every step."""
    plan = [pair for suite in cell.suites.values() for pair in planned_images(suite)]
    count = min(_SHEET_COLUMNS * _SHEET_ROWS, len(plan))
    chosen = [plan[index * len(plan) // count] for index in range(count)]
    rows = -(-count // _SHEET_COLUMNS)
    height = _SHEET_SIDE + _CAPTION_HEIGHT
    sheet = Image.new("RGB", (_SHEET_COLUMNS * _SHEET_SIDE, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (item, index) in enumerate(chosen):
        x, y = place % _SHEET_COLUMNS * _SHEET_SIDE, place // _SHEET_COLUMNS * height
        with Image.open(folder.image(step, item.prompt_id, index)) as image:
            sheet.paste(image.convert("RGB").resize((_SHEET_SIDE - 4,) * 2), (x + 2, y + 2))
        caption = "\n".join(textwrap.wrap(item.prompt, 25)[:3])
        pen.multiline_text((x + 3, y + _SHEET_SIDE), caption, fill="black", spacing=1)
    return sheet
