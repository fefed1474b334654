"""JSON Lines sets: one object a line; imports no framework."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from soarbench.common.errors import UserError
from soarbench.data.config import JsonlDataConfig
from soarbench.data.records import Record, caption_text, checked_scores, checked_size

_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Every object of a file and its place, for messages; blank lines are passed over.

    Raises:
        UserError: A line is no JSON object, or the file is no text.
    """
    with path.open(encoding="utf-8") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    place = f"{path} line {number}"
                    yield place, _parsed(line, place)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error})") from error


def _parsed(line: str, place: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f'{place}: must be an object, e.g. {{"image": ..., "caption": ...}}')
    return row


def jsonl_records(config: JsonlDataConfig) -> Iterator[Record]:
    """Rows of a file, in its order.

    Raises:
        UserError: A line is malformed: names it.
    """
    path, folder = config.file(), config.image_folder()
    for place, row in read_lines(path):
        image = image_path(row, place, folder)
        yield Record(
            key=_key(image, row),
            place=f"{place} ({image})",
            caption=caption_text(row.get("caption")),
            open=functools.partial(_opened, image),
            size=checked_size(row.get("width"), row.get("height"), place),
            scores=checked_scores(row.get("scores"), place),
            md5=md5 if isinstance(md5 := row.get("md5"), str) else None,
        )


def image_path(row: Mapping[str, object], place: str, folder: Path) -> Path:
    """Where a row's image lies, or would lie.

    Raises:
        UserError: The row names no image.
    """
    image, md5 = row.get("image"), row.get("md5")
    if isinstance(image, str) and image:
        return folder / image
    if not isinstance(md5, str) or not md5:
        raise UserError(f'{place}: no image; give its path as "image", or its "md5"')
    for parent in (folder, folder / md5[:2]):
        for suffix in _SUFFIXES:
            if (parent / f"{md5}{suffix}").is_file():
                return parent / f"{md5}{suffix}"
    return folder / md5


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _key(path: Path, row: Mapping[str, object]) -> str:
    """The md5 that the row states, or the file's place, size and time of change."""
    if isinstance(row.get("md5"), str):
        return f"md5:{row['md5']}"
    try:
        stat = path.stat()
    except OSError:
        return f"missing:{path}"
    facts = f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}"
    return hashlib.sha256(facts.encode()).hexdigest()
