"""Sample sheets: the same prompts and seeds under every method and step, from stored images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from soarbench.report.numbers.names import Titles, method_title, step_title, titles_of
from soarbench.report.numbers.samples import shown_cells, shown_steps
from soarbench.store.cells import Cell

T = TypeVar("T")
_MOST_PROMPTS, _MOST_STEPS = 8, 3
_SIDE, _GAP, _WIDE_GAP, _TEXT_WIDTH, _HEAD_HEIGHT = 128, 4, 16, 176, 44
_FONT_SIZE, _LINE_HEIGHT = 14, 17


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One image of a sheet; steps are those of the method's last stage."""

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
    """What a task's sheet shows, row by row; empty without a trained cell.

    Evenly spaced prompts, their first image, under the base and the lowest training seed of every
    method at its first, middle and last step.
    """
    # All by position: nothing is chosen by how it looks.
    chosen = shown_cells(cells, task)
    trained = [cell for cell in chosen if not cell.is_base]
    # The base alone shows nothing that training changed.
    if not trained:
        return []
    steps = shown_steps(chosen)
    columns = [(cell, step) for cell in chosen for step in _spread(steps[cell.method], _MOST_STEPS)]
    return [
        Tile(
            task=task, prompt_id=prompt_id, prompt=prompt, image_index=index, method=cell.method,
            seed=cell.seed, step=step, cell=cell,
            is_stored=cell.tables.image_file(step, prompt_id, index) is not None,
        )
        for prompt_id, prompt, index in _spread(trained[0].prompts(), _MOST_PROMPTS)
        for cell, step in columns
    ]  # fmt: skip


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spaced from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def draw_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """A row a prompt, a column a method and step; RGB. ``ValueError`` without any tile."""
    if not tiles:
        raise ValueError("sample sheet: no image to show")
    prompts = {tile.prompt_id: tile.prompt for tile in tiles}
    columns, titles = _columns(tiles), titles_of(tile.cell for tile in tiles)
    heads = {method: _head(columns, method, titles) for method, _ in columns}
    head_height = _HEAD_HEIGHT + _LINE_HEIGHT * (max(map(len, heads.values())) - 1)
    rows = {name: head_height + row * (_SIDE + _GAP) for row, name in enumerate(prompts)}
    right, bottom = max(columns.values()), max(rows.values())
    sheet = Image.new("RGB", (right + _SIDE + _GAP, bottom + _SIDE + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    _draw_heads(pen, columns, heads, head_height)
    for tile in tiles:
        x, y = columns[tile.method, tile.step], rows[tile.prompt_id]
        image = tile.cell.image(tile.step, tile.prompt_id, tile.image_index)
        if image is not None:
            sheet.paste(_scaled(image), (x, y))
        else:
            _draw_missing(pen, x, y)
    for name, y in rows.items():
        # Six lines are as high as an image.
        text = "\n".join(_folded(prompts[name], _font(), _TEXT_WIDTH - 2 * _GAP)[:6])
        pen.multiline_text((_GAP, y + _SIDE // 2), text, font=_font(), fill="black", anchor="lm")
    return sheet


def _columns(tiles: Sequence[Tile]) -> dict[tuple[str, int], int]:
    columns: dict[tuple[str, int], int] = {}
    x, before = _TEXT_WIDTH, ""
    for method, step in dict.fromkeys((tile.method, tile.step) for tile in tiles):
        if columns:
            # Methods stand apart, so that steps of one are read as a course.
            x += _SIDE + (_GAP if method == before else _WIDE_GAP)
        columns[method, step], before = x, method
    return columns


def _head(columns: Mapping[tuple[str, int], int], method: str, titles: Titles) -> list[str]:
    """A method's title, in as many lines as the width of its images needs."""
    places = [x for (name, _), x in columns.items() if name == method]
    width = places[-1] + _SIDE - places[0]
    return _folded(method_title(method, titles), _font(is_bold=True), width)


def _folded(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of a text that are no wider than ``width`` pixels."""
    # Some letters are four times as wide as others, so that lines are measured; none is narrower
    # than three pixels.
    lines = [text]
    for letters in range(width // 3, 0, -1):
        lines = textwrap.wrap(text, letters)
        if max((font.getlength(line) for line in lines), default=0.0) <= width:
            break
    return lines


def _draw_heads(
    pen: ImageDraw.ImageDraw,
    columns: Mapping[tuple[str, int], int],
    heads: Mapping[str, Sequence[str]],
    height: int,
) -> None:
    before = None
    for (method, step), x in columns.items():
        for row, line in enumerate(heads[method] if method != before else ()):
            pen.text((x, 2 + _LINE_HEIGHT * row), line, font=_font(is_bold=True), fill="black")
        before, text = method, step_title(method, step)
        # The words of a second stage are wider than its image.
        size = _FONT_SIZE * min(1.0, _SIDE / pen.textlength(text, _font()))
        pen.text((x, height - _HEAD_HEIGHT + 22), text, font=_font(size), fill="#404040")


def _scaled(image: Image.Image) -> Image.Image:
    # Lanczos rings at the hard edges of a small image that is enlarged.
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
    # Of the machine's fonts none is on every machine, and sheets would not look alike.
    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size)
