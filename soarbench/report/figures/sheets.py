"""Sample sheets: the same prompts and seeds under every method and step, from stored images."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from soarbench.report.numbers.names import Titles, method_title, step_title, titles_of
from soarbench.report.numbers.samples import shown_cells
from soarbench.store.cells import Cell

T = TypeVar("T")
_MOST_PROMPTS, _MOST_STEPS = 8, 3
_SIDE, _GAP, _WIDE_GAP, _TEXT_WIDTH, _HEAD_HEIGHT, _FONT_SIZE = 128, 4, 16, 176, 44, 14


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One image of a sheet.

    Attributes:
        task: Name.
        prompt_id: Of the suite.
        prompt: Its text.
        image_index: Which image of the prompt.
        method: Name.
        seed: Of training.
        step: Optimiser steps, of the method's last stage.
        cell: Which stores it.
        is_stored: Whether it is there.
    """

    task: str
    prompt_id: str
    prompt: str
    image_index: int
    method: str
    seed: int
    step: int
    cell: Cell
    is_stored: bool


def plan_sheet(cells: Sequence[Cell], task: str) -> list[Tile]:
    """Choose what a task's sheet shows, row by row.

    Evenly spaced prompts, their first image, under the base and the lowest training seed of every
    method at its first, middle and last step. Nothing is chosen by how it looks.

    Args:
        cells: Finished ones, of any task.
        task: Name.
    """
    chosen = shown_cells(cells, task)
    trained = [cell for cell in chosen if not cell.is_base]
    # The base alone shows nothing that training changed.
    if not trained:
        return []
    columns = [(cell, step) for cell in chosen for step in _spread(cell.steps, _MOST_STEPS)]
    return [
        _tile(task, prompt_id, prompt, index, cell, step)
        for prompt_id, prompt, index in _spread(trained[0].prompts(), _MOST_PROMPTS)
        for cell, step in columns
    ]


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spaced from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def _tile(task: str, prompt_id: str, prompt: str, index: int, cell: Cell, step: int) -> Tile:
    return Tile(
        task=task,
        prompt_id=prompt_id,
        prompt=prompt,
        image_index=index,
        method=cell.method,
        seed=cell.seed,
        step=step,
        cell=cell,
        is_stored=cell.has_image(step, prompt_id, index),
    )


def draw_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """Draw a sheet: a row a prompt, a column a method and step; RGB.

    Args:
        tiles: From ``plan_sheet``. Where an image is not stored there is a hatched square.

    Raises:
        ValueError: There is no tile.
    """
    if not tiles:
        raise ValueError("sample sheet: no image to show")
    prompts = list(dict.fromkeys(tile.prompt_id for tile in tiles))
    columns = list(dict.fromkeys((tile.method, tile.step) for tile in tiles))
    columns_x = list(_columns_x([method for method, _ in columns]))
    size = (columns_x[-1] + _SIDE + _GAP, _HEAD_HEIGHT + len(prompts) * (_SIDE + _GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    _draw_heads(pen, columns, columns_x, titles_of(tile.cell for tile in tiles))
    for tile in tiles:
        y = _HEAD_HEIGHT + prompts.index(tile.prompt_id) * (_SIDE + _GAP)
        x = columns_x[columns.index((tile.method, tile.step))]
        image = tile.cell.image(tile.step, tile.prompt_id, tile.image_index)
        if image is not None:
            sheet.paste(_scaled(image), (x, y))
        else:
            _draw_missing(pen, x, y)
    for row, prompt_id in enumerate(prompts):
        text = next(tile.prompt for tile in tiles if tile.prompt_id == prompt_id)
        # Six lines are as high as an image.
        wrapped = "\n".join(textwrap.wrap(text, 21)[:6])
        middle = _HEAD_HEIGHT + row * (_SIDE + _GAP) + _SIDE // 2
        pen.multiline_text((_GAP, middle), wrapped, font=_font(), fill="black", anchor="lm")
    return sheet


def _columns_x(methods: Sequence[str]) -> Iterator[int]:
    """Where each column begins: methods stand apart."""
    x = _TEXT_WIDTH
    for index, method in enumerate(methods):
        if index:
            x += _SIDE + (_GAP if method == methods[index - 1] else _WIDE_GAP)
        yield x


def _draw_heads(
    pen: ImageDraw.ImageDraw,
    columns: Sequence[tuple[str, int]],
    columns_x: Sequence[int],
    titles: Titles,
) -> None:
    for index, ((method, step), x) in enumerate(zip(columns, columns_x, strict=True)):
        if index == 0 or columns[index - 1][0] != method:
            title = method_title(method, titles)
            pen.text((x, 2), title, font=_font(is_bold=True), fill="black")
        text = step_title(method, step)
        # The words of a second stage are wider than its image.
        size = _FONT_SIZE * min(1.0, _SIDE / pen.textlength(text, _font()))
        pen.text((x, 22), text, font=_font(size), fill="#404040")


def _scaled(image: Image.Image) -> Image.Image:
    """A square image of the sheet's size; whole pixels where the image is smaller."""
    is_small = max(image.size) < _SIDE
    way = Image.Resampling.BICUBIC if is_small else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((_SIDE, _SIDE), way)


def _draw_missing(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    box = (x, y, x + _SIDE - 1, y + _SIDE - 1)
    pen.rectangle(box, outline="#808080", fill="#F4F4F4")
    pen.line((box[0], box[3], box[2], box[1]), fill="#B0B0B0")
    middle = (x + _SIDE // 2, y + _SIDE // 2)
    pen.text(middle, "not stored", font=_font(), fill="#404040", anchor="mm")


def _font(size: float = _FONT_SIZE, *, is_bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings, so that sheets look alike on every machine."""
    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size)
