"""Evaluation images: one PNG a (prompt, index), whose noise is a function of these two alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from soarbench.common.files import write_atomically
from soarbench.common.progress import Stage
from soarbench.data.prompts import PromptItem

Draw = Callable[[Sequence[tuple[PromptItem, int]]], list[Image.Image]]
"""Draws the images of (prompt, image index) pairs, in order."""


def image_path(root: Path, prompt_id: str, image_index: int) -> Path:
    """Where an image lies among those of its suite."""
    return root / "images" / prompt_id / f"{image_index:04d}.png"


def sampler_path(root: Path) -> Path:
    """Where the sampler's class and shift lie, so that judging needs no model for its protocol."""
    return root / "sampler.json"


def draw_missing(
    pairs: Sequence[tuple[PromptItem, int]],
    root: Path,
    batch_size: int,
    draw: Callable[[], Draw],
    progress: Stage,
) -> None:
    """Draw those images of (prompt, image index) pairs that are not below ``root`` yet.

    Weights are loaded, by ``draw``, only if one is missing.
    """
    # Batches are cut from all pairs, not from what is missing: a resumed run then repeats the
    # interrupted batch as it was, and matrix products of another batch size, which differ in the
    # last bits, cannot change an image.
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        paths = [image_path(root, item.prompt_id, index) for item, index in batch]
        missing = [path for path in paths if not path.is_file()]
        progress.skip(len(paths) - len(missing))
        if missing:
            for path, image in zip(paths, draw()(batch), strict=True):
                if path in missing:
                    write_atomically(path, functools.partial(_save_png, image))
            progress.advance(len(missing))


def _save_png(image: Image.Image, path: Path) -> None:
    # Of a .partial name, Pillow cannot tell the format.
    image.save(path, "PNG")
