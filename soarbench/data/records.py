"""Rows of somebody else's set, checked in everything but their pixels; imports no framework."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from PIL import Image

from evaluators.base import Sample
from evaluators.images import ImageError, decode_image, image_size
from soarbench.common.errors import UserError

Scorer = Callable[[Sequence[Sample]], Sequence[float]]
"""Gives every sample a score; nan for one that cannot be scored."""
#: Of scores; an int of 400 digits is no float.
_LARGEST = sys.float_info.max


@dataclass(frozen=True, kw_only=True)
class Record:
    """An image with its caption; the image is read when it is asked for.

    Attributes:
        key: Unique in the set, and another one if the image's file changes.
        place: Where it comes from, for messages.
        caption: What it shows.
        open: Gives the image file's bytes; raises OSError if it cannot be read.
        size: Width and height, pixels, where the set says so, as with ``scores`` and ``md5``.
        scores: By name.
        md5: Of the image's file.
    """

    key: str
    place: str
    caption: str
    open: Callable[[], BinaryIO] = field(repr=False)
    size: tuple[int, int] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    md5: str | None = None

    def image(self) -> Image.Image:
        """The image, upright, 8-bit RGB; ``ImageError`` where it is missing, damaged or another."""
        self.check_md5()
        with self._opened() as stream:
            return decode_image(stream, self.place)

    def measured(self) -> tuple[int, int]:
        """Width and height by the header; ``ImageError`` for no image or not what the set says."""
        with self._opened() as stream:
            size = image_size(stream, self.place)
        if self.size is not None and size != self.size:
            raise ImageError(
                f"{self.place}: {size[0]} x {size[1]} pixels, but the set says "
                f"{self.size[0]} x {self.size[1]}"
            )
        return size

    def check_md5(self) -> None:
        """``ImageError`` where the image's file is not the one whose md5 the set states."""
        if self.md5 is None:
            return
        with self._opened() as stream:
            digest = hashlib.md5(stream.read(), usedforsecurity=False).hexdigest()
        if digest != self.md5.lower():
            raise ImageError(f"{self.place}: its md5 is {digest}, but the set says {self.md5}")

    def _opened(self) -> BinaryIO:
        try:
            return self.open()
        except OSError as error:
            raise ImageError(f"{self.place}: {error.strerror or error}") from error
        except ValueError as error:
            raise ImageError(f"{self.place}: no file can have this name ({error})") from error


def caption_text(caption: object) -> str:
    """A caption as it is checked later; what is no text counts as empty."""
    return caption if isinstance(caption, str) else ""


def _is_text(caption: str) -> bool:
    try:
        caption.encode()
    except UnicodeEncodeError:
        return False
    return True


def caption_fault(record: Record, max_length: int) -> str | None:
    """Why a caption cannot be trained on, and what to do about it."""
    if not record.caption.strip():
        return f"{record.place}: the caption is empty; write one or remove the row"
    if not record.caption.isprintable() and not _is_text(record.caption):
        return f"{record.place}: the caption holds half a character; write it anew"
    if len(record.caption) > max_length:
        return (
            f"{record.place}: the caption has {len(record.caption)} characters, more than "
            f"data.max_caption_length={max_length}; encoders would cut it, shorten "
            "it or raise the limit"
        )
    return None


def checked_scores(scores: object, place: str) -> dict[str, float]:
    """Scores that a row comes with; ``UserError`` where they are not names and numbers."""
    if scores is None:
        return {}
    if not isinstance(scores, Mapping):
        raise UserError(f"{place}: scores={scores!r} must be an object of names and numbers")
    by_name = {}
    for name, value in scores.items():
        # ``data score`` writes null for what a judge could not measure.
        if value is None:
            continue
        # To Python True is an int; as a score it is a mistake.
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not -_LARGEST <= value <= _LARGEST:
            raise UserError(f"{place}: score {name}={value!r} must be a finite number")
        by_name[str(name)] = float(value)
    return by_name


def checked_size(width: object, height: object, place: str) -> tuple[int, int] | None:
    """Width and height of a row that says both; ``UserError`` where they cannot be."""
    if width is None or height is None:
        return None
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        raise UserError(
            f"{place}: width={width!r}, height={height!r} must be positive whole numbers"
        )
    return width, height
