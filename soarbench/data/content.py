"""What identifies the content of files that a set lies in; imports no framework."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from soarbench.common.files import files_digest

#: Read at either end of a file of images, whose name and size say most.
_END = 2**20


def ends_digest(paths: list[Path], root: Path) -> str:
    """Digest of large files: of their names and sizes, and of the content of their ends."""
    return _ends_digest(_facts(paths), root)


def whole_digest(path: Path) -> str:
    """Digest of all of a file."""
    return _whole_digest(*_facts([path]))


def _facts(paths: list[Path]) -> tuple[tuple[str, int, int], ...]:
    stats = ((path.absolute(), path.stat()) for path in paths)
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


@functools.cache
def _ends_digest(facts: tuple[tuple[str, int, int], ...], root: Path) -> str:
    # The facts make a changed file another question.
    return files_digest([Path(name) for name, _, _ in facts], root, _END)


@functools.cache
def _whole_digest(facts: tuple[str, int, int]) -> str:
    with Path(facts[0]).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
