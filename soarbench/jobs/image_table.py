"""Statistics of all evaluation images of a cell, as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from soarbench.config.settings import CellConfig
from soarbench.diagnostics.image_statistics import STATISTICS, diversity, pixels_of
from soarbench.evaluation.protocol import planned_images
from soarbench.store.cell_folder import CellFolder


class Group(NamedTuple):
    """The images of one prompt at one step."""

    step: int
    suite: str
    prompt_id: str
    indices: tuple[int, ...]


def groups(cell: CellConfig) -> list[Group]:
    """All evaluation images of a cell, by step, suite and prompt."""
    found = []
    for step in cell.steps:
        for suite in cell.suites.values():
            members: dict[str, list[int]] = {}
            for item, index in planned_images(suite):
                members.setdefault(item.prompt_id, []).append(index)
            found += [
                Group(step, suite.name, prompt_id, tuple(indices))
                for prompt_id, indices in members.items()
            ]
    return found


def image_table(cell: CellConfig, folder: CellFolder, advance: Callable[[int], object]) -> pa.Table:
    """Measure every image; columns as ``files.images_path`` says.

    Args:
        cell: A finished one.
        folder: Its files.
        advance: Told how many images were measured.
    """
    rows: list[dict[str, object]] = []
    for group in groups(cell):
        rows += _rows(group, folder)
        advance(len(group.indices))
    return pa.Table.from_pylist(rows)


def _rows(group: Group, folder: CellFolder) -> Iterator[dict[str, object]]:
    images = []
    for index in group.indices:
        with Image.open(folder.image(group.step, group.prompt_id, index)) as file:
            images.append(file.convert("RGB"))
    apart = diversity(images) if len(images) > 1 else None
    for index, image in zip(group.indices, images, strict=True):
        pixels = pixels_of(image)
        yield {
            "step": group.step,
            "suite": group.suite,
            "prompt_id": group.prompt_id,
            "image_index": index,
            **{name: measure(pixels) for name, measure in STATISTICS.items()},
            "diversity": apart,
        }
