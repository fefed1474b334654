"""Evaluation images: one PNG a (prompt, index), whose noise is a function of these two alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from evaluators.images import in_threads
from soarbench.common.files import write_atomically
from soarbench.common.progress import Stage
from soarbench.data.prompts import PromptItem

Pair = tuple[PromptItem, int]
"""A prompt and which of its images."""

Draw = Callable[[Sequence[Pair]], list[Image.Image]]
"""Draws the images of (prompt, image index) pairs, in order."""


def image_path(root: Path, prompt_id: str, image_index: int) -> Path:
    """Where an image lies among those of its suite."""
    return root / "images" / prompt_id / f"{image_index:04d}.png"


def sampler_path(root: Path) -> Path:
    """Where the sampler's class and shift lie, so that judging needs no model for its protocol."""
    return root / "sampler.json"


def draw_missing(
    pairs: Sequence[Pair],
    root: Path,
    batch_size: int,
    draw: Callable[[], Draw],
    progress: Stage,
    *,
    only: Callable[[int], bool] = lambda _: True,
) -> None:
    """Draw those images of (prompt, image index) pairs that are not below ``root`` yet.

    Weights are loaded, by ``draw``, only if one is missing. Threads write images while the next are
    drawn; all are on the disk at the end, and those that ``progress`` counts at any time. ``only``
    says whether this process draws a batch, by its number.
    """
    # Batches are cut from all pairs, not from what is missing: a resumed run then repeats the
    # interrupted batch as it was, and matrix products of another batch size, which differ in the
    # last bits, cannot change an image.
    own = [batch for i, batch in enumerate(batches(pairs, batch_size)) if only(i)]
    drawn = _drawn(own, root, draw, progress)
    # A batch waits to be written while the next is drawn; more would fill the memory.
    for _ in in_threads(_write, drawn, ahead=batch_size + 1):
        progress.advance()


def batches(pairs: Sequence[Pair], size: int) -> list[Sequence[Pair]]:
    """Pairs as they are drawn together."""
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _drawn(
    own: Sequence[Sequence[Pair]],
    root: Path,
    draw: Callable[[], Draw],
    progress: Stage,
) -> Iterator[tuple[Path, Image.Image]]:
    """Missing images and their places, as they are drawn."""
    for batch in own:
        paths = [image_path(root, item.prompt_id, index) for item, index in batch]
        missing = [path for path in paths if not path.is_file()]
        progress.skip(len(paths) - len(missing))
        if missing:
            images = zip(paths, draw()(batch), strict=True)
            yield from (pair for pair in images if pair[0] in missing)


def _write(drawn: tuple[Path, Image.Image]) -> None:
    path, image = drawn
    # Of a .partial name, Pillow cannot tell the format.
    write_atomically(path, lambda partial: image.save(partial, "PNG"))
