"""Evaluation images: one PNG a (prompt, index), whose noise is a function of these two alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from soarbench.common.files import write_atomically
from soarbench.data.prompts import PromptItem

Draw = Callable[[Sequence[tuple[PromptItem, int]]], list[Image.Image]]
"""Draws the images of (prompt, image index) pairs, in order."""


class Counter(Protocol):
    """Told how many images there are."""

    def advance(self, count: int = 1) -> None:
        """More were made."""

    def skip(self, count: int = 1) -> None:
        """More were there already, made by an earlier launch."""


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
    progress: Counter,
) -> None:
    """Draw the images that do not exist yet; those that do stay as they are.

    Args:
        pairs: Every (prompt, image index).
        root: Of the images of the suite.
        batch_size: Images at once.
        draw: Loads the weights; called only if an image is missing.
        progress: Counts images.
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
