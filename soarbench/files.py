"""Files of a run folder: written whole or not at all, one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from soarbench.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then rename it there.

    A killed process leaves a ``.partial`` file, which nobody reads and the next try overwrites. The
    content is on the disk before the name is, so that a power cut leaves no empty file either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a mapping as indented JSON, atomically."""
    text = json.dumps(values, indent=1) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text))


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON mapping.

    Raises:
        UserError: The file is damaged.
    """
    try:
        values: dict[str, object] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder it is in") from error
    return values


def make_writable(folder: Path, key: str) -> None:
    """Create a folder and prove that it can be written to.

    Raises:
        UserError: It cannot; names the setting.
    """
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{key}={folder} cannot be written to ({error.strerror}); choose another {key}"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process.

    The kernel drops the lock when its holder dies, however it dies, so no stale lock can remain;
    the process id in the file is for the message alone.

    Raises:
        UserError: Another process holds it.
    """
    path = folder / ".lock"
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise UserError(
                f"{folder} is in use by process {holder}; wait for it, or choose another output_dir"
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
