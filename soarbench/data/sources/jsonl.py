"""JSON Lines sets: one object a line; imports no framework."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from soarbench.common.errors import UserError
from soarbench.common.files import write_atomically
from soarbench.data.contents import check_inside, file_facts
from soarbench.data.forms import JsonlDataConfig
from soarbench.data.records import Record, caption_text, checked_scores, checked_size

_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Objects of a file and their places, blank lines left out; ``UserError`` for other lines."""
    with path.open(encoding="utf-8-sig") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    place = f"{path} line {number}"
                    yield place, _parsed(line, place)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error})") from error


def line_of(row: Mapping[str, object]) -> str:
    """An object as a line, its letters as they are."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half a character, as JSON can name one, is in no file of UTF-8 unless it is escaped.
        text = json.dumps(row)
    return f"{text}\n"


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write objects, one a line, atomically."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    write_atomically(path, lambda partial: partial.write_text(text))


def _parsed(line: str, place: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    # Brackets within brackets, 50,000 deep, are no JSON either.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f'{place}: must be an object, e.g. {{"image": ..., "caption": ...}}')
    return row


def jsonl_records(config: JsonlDataConfig) -> Iterator[Record]:
    """Rows of a file, in its order; ``UserError`` names the first that is malformed."""
    path, folder = config.file(), config.image_folder()
    for place, row in read_lines(path):
        image = image_path(row, place, folder)
        within = None if config.foreign_files else folder
        yield Record(
            key=_key(image, row, within),
            place=f"{place} ({image})",
            caption=caption_text(row.get("caption")),
            open=functools.partial(_opened, image, within),
            size=checked_size(row.get("width"), row.get("height"), place),
            scores=checked_scores(row.get("scores"), place),
            md5=md5 if isinstance(md5 := row.get("md5"), str) else None,
        )


def image_path(row: Mapping[str, object], place: str, folder: Path) -> Path:
    """Where a row's image lies, or would lie; ``UserError`` where it names none."""
    image, md5 = row.get("image"), row.get("md5")
    if isinstance(image, str) and image:
        return folder / image
    if not isinstance(md5, str) or not md5:
        raise UserError(f'{place}: no image; give its path as "image", or its "md5"')
    names = [f"{md5}{suffix}" for suffix in _SUFFIXES]
    paths = (parent / name for parent in (folder, folder / md5[:2]) for name in names)
    return next((path for path in paths if path.is_file()), folder / md5)


def _opened(path: Path, folder: Path | None) -> BinaryIO:
    if folder is not None:
        check_inside(path, [folder])
    return path.open("rb")


def _key(path: Path, row: Mapping[str, object], folder: Path | None) -> str:
    # Not computed, which would read every image twice; compared when the image is read.
    if isinstance(row.get("md5"), str):
        return f"md5:{row['md5']}"
    try:
        if folder is not None:
            check_inside(path, [folder])
        place, size, time = file_facts(path)
    # ValueError: a name that holds what no name can, a NUL or half a character.
    except (OSError, ValueError):
        # Whoever opens the image says what is wrong, and it is left out if that is allowed.
        return f"missing:{path}"
    return hashlib.sha256(f"{place} {size} {time}".encode()).hexdigest()
