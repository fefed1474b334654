"""Reading the images of others: any common file becomes upright 8-bit RGB, or one clear error."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

T = TypeVar("T")
S = TypeVar("S")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
#: Threads that work on images beside a model. To read a PNG of 512 px takes 8 ms and to write one
#: 40 ms, both longer than a GPU needs to judge it.
WORKERS = max(2, min(8, os.cpu_count() or 2))
_MAX_16_BIT = 65535
# EXIF's tag, and those of its values that turn an image by a quarter.
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
#: What Pillow's decoders raise on damaged files, apart from OSError.
DECODER_ERRORS = (
    SyntaxError,
    ValueError,
    # Of tags that hold another type than they should.
    TypeError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


class ImageError(ValueError):
    """An image that cannot be used as it is; the message names the file."""


def load_image(path: str | Path) -> Image.Image:
    """One file as RGB, upright by EXIF, of an animation the first frame; else ``ImageError``."""
    if not Path(path).is_file():
        raise ImageError(f"no image file {path}")
    with Path(path).open("rb") as stream:
        return decode_image(stream, str(path))


def is_readable(path: Path) -> bool:
    """Whether a file is an image that can be used."""
    try:
        load_image(path)
    except ImageError:
        return False
    return True


def decode_image(stream: BinaryIO, path: str) -> Image.Image:
    """As ``load_image``, of bytes from anywhere, which messages call ``path``."""
    with _opened(stream, path) as image:
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))


def image_size(stream: BinaryIO, path: str) -> tuple[int, int]:
    """Width and height as decoded, from the header alone; ``ImageError`` where it is no image."""
    with _opened(stream, path) as image:
        # Others, which EXIF does not know, turn nothing.
        turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
        return image.size[::-1] if turned else image.size


@contextlib.contextmanager
def _opened(stream: BinaryIO, path: str) -> Iterator[Image.Image]:
    """An image whose every failure is one ``ImageError`` that names the file."""
    try:
        with Image.open(stream) as image:
            yield image
    except ImageError as error:
        raise ImageError(f"cannot use image {path}: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image in a known format; replace it") from error
    except (OSError, *DECODER_ERRORS) as error:
        raise ImageError(
            f"cannot read image {path}: {error}; the file is damaged or cut short, replace it"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any Pillow mode; ``ImageError`` for those whose white is nowhere stated."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):
        return _from_16_bit(image)
    if image.has_transparency_data:
        # White, as it would look on a page; Pillow's conversion shows what lies under the alpha.
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > _MAX_16_BIT:
        raise ImageError(
            f"mode {image.mode!r} with values {values.min()} to {values.max()} has no defined "
            "white; save it as 8-bit RGB"
        )
    # Pillow's own conversion clips all above 255 to white.
    scaled = (values.astype(np.uint32) * 255 + _MAX_16_BIT // 2) // _MAX_16_BIT
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def in_threads(
    work: Callable[[S], T], items: Iterable[S], *, workers: int = WORKERS, ahead: int = 16
) -> Iterator[T]:
    """Results in order, at most ``ahead`` (from 1) early; an error waits for its turn."""
    # Threads are enough beside a model: Pillow lets the interpreter's lock go.
    executor = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="images")
    waiting: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    try:
        for item in items:
            waiting.append(executor.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
