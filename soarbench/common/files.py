"""Files of a run folder: written whole or not at all, one process at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from soarbench.common.errors import UserError

#: Hashing 15 GB of weights before every run would take a minute.
_WHOLE_FILE = 64 * 2**20


def files_digest(paths: Iterable[Path], root: Path, end: int = _WHOLE_FILE) -> str:
    """What identifies files: names and sizes of all, and the content of their ends.

    Args:
        paths: The files, in an order of their own.
        root: Names are relative to it.
        end: Bytes read at either end of a file.
    """
    parts = []
    for path in paths:
        size = path.stat().st_size
        with path.open("rb") as stream:
            ends = stream.read(end)
            stream.seek(max(size - end, 0))
            ends += stream.read() if size > end else b""
        parts.append(f"{path.relative_to(root)} {size} {short_digest(ends)}")
    return short_digest("\n".join(parts).encode())


def short_digest(content: bytes) -> str:
    """The first 16 digits of the sha256."""
    return hashlib.sha256(content).hexdigest()[:16]


def parts_digest(*parts: object) -> str:
    """A short name for what something that is computed once depends on."""
    return short_digest(json.dumps([str(part) for part in parts]).encode())


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A killed process leaves this file, which nobody reads and the next try overwrites.
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    # On the disk before the name is, so that a power cut leaves no empty file either.
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a mapping as indented JSON, atomically."""
    # Indented, so that a person can compare two of them line by line.
    text = json.dumps(values, indent=1) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text))


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON mapping; ``UserError`` where the file is damaged."""
    try:
        values: dict[str, object] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder it is in") from error
    return values


def make_writable(folder: Path, key: str) -> None:
    """Create a folder; ``UserError`` that names the setting where it cannot be written to."""
    # Tried, since permissions do not say what a network disk refuses.
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{key}={folder} cannot be written to ({error.strerror}); choose another {key}"
        ) from error


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine holds a folder."""
    if not (folder / ".lock").is_file():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; ``UserError`` where another one holds it."""
    path = folder / ".lock"
    # The kernel drops the lock when its holder dies, however it dies: no stale lock can remain.
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        holder = path.read_text().strip() or "unknown"
        raise UserError(
            f"{folder} is in use by process {holder}; wait for it, or choose another folder"
        ) from None
    try:
        path.write_text(str(os.getpid()))  # for that message alone
        yield
    finally:
        lock.release()
