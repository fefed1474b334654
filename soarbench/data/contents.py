"""What identifies a set's files: their places, sizes and content."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from soarbench.common.files import files_digest

Facts = tuple[Path, int, int]
#: Read at either end of a file of images, whose name and size say most.
_END = 2**20


def check_inside(path: str | Path, folders: Iterable[str | Path]) -> None:
    """``PermissionError`` for a file outside of folders, which somebody else's set could name."""
    # By their names alone: whoever has the folder made its links to another disk.
    place = os.path.abspath(path)
    if not any(Path(place).is_relative_to(os.path.abspath(folder)) for folder in folders):
        raise PermissionError(
            "lies outside the set's folder; data.foreign_files=true takes such files, too"
        )


def file_facts(path: Path) -> Facts:
    """Place, size and time of change, which together make a changed file another one."""
    stat = path.stat()
    return path.absolute(), stat.st_size, stat.st_mtime_ns


def ends_digest(paths: list[Path], root: Path) -> str:
    """Digest of large files: of their names and sizes, and of the content of their ends."""
    return _ends_digest(tuple(map(file_facts, paths)), root)


def whole_digest(path: Path) -> str:
    """Digest of all of a file."""
    return _whole_digest(file_facts(path))


# Every cell of a grid asks for its set's content: files are read once, and again when they change.
@functools.cache
def _ends_digest(facts: tuple[Facts, ...], root: Path) -> str:
    return files_digest([path for path, _, _ in facts], root, _END)


@functools.cache
def _whole_digest(facts: Facts) -> str:
    with facts[0].open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
