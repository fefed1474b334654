"""Files of a run folder: written whole or not at all, one process at a time."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from baselines.loop.disk import partial_path, write_whole, writing
from soarbench.common.errors import DamagedFile, UserError

#: Hashing 15 GB of weights before every run would take a minute.
_WHOLE_FILE = 64 * 2**20
#: What a table in Parquet ends with.
_PARQUET = b"PAR1"

log = logging.getLogger(__name__)


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
    """Let ``write`` make a file beside ``path``, then rename it there: the last writer wins.

    ``StorageError`` where the disk is full or cannot be written to.
    """
    write_whole(path, write)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a mapping as indented JSON, atomically."""
    # Indented, so that a person can compare two of them line by line.
    text = json.dumps(values, indent=1) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text))


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON mapping; ``DamagedFile`` where it is none."""
    try:
        values = json.loads(path.read_bytes())
        fault = None if isinstance(values, dict) else "no JSON object"
    except (ValueError, RecursionError) as error:
        values, fault = {}, str(error)
    if fault is not None:
        raise DamagedFile(f"{path} is damaged ({fault}); the command that wrote it makes it again")
    return dict(values)


def read_passing(path: Path) -> dict[str, object] | None:
    """As ``read_json``, of what is written again anyway: a damaged file is None, and said."""
    try:
        return read_json(path) if path.is_file() else None
    except DamagedFile as error:
        log.warning("%s", error)
        return None


def set_aside(path: Path, aside: Path) -> Path:
    """Move what is damaged out of the way, and beside what was moved there before. -> Where."""
    target = next(
        place
        for number in itertools.count(1)
        if not (place := aside.with_name(f"{aside.name}-{number}")).exists()
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    return target


def set_table_aside(path: Path, error: Exception) -> str:
    """Move a table that cannot be read out of the way, to be made again. -> What to say of it."""
    # Arrow names the file first, and what is wrong with it last.
    fault = f"{path} is damaged ({str(error).rpartition(': ')[2]})"
    try:
        aside = set_aside(path, path.with_name(f"{path.name}.damaged"))
    except OSError as refused:
        return f"{fault}, and cannot be moved ({refused.strerror})"
    return f"{fault}; set aside as {aside.name}"


# Days of training were to be thrown away for a file of 500 bytes: small files that say what large
# ones are exist twice.
def write_record(path: Path, values: Mapping[str, object]) -> None:
    """As ``write_json``, with a copy beside the file that ``read_record`` falls back on."""
    # In this order: whoever is killed in between comes back, since the record does not say yet that
    # its work is done; the other way round the copy would stay behind for ever.
    write_json(_copy(path), values)
    write_json(path, values)


def read_record(path: Path) -> dict[str, object] | None:
    """What ``write_record`` wrote, None before; ``DamagedFile`` where both files are."""
    copy = _copy(path)
    try:
        if path.is_file() or not copy.is_file():
            return read_json(path) if path.is_file() else None
        fault = "is missing"
    except DamagedFile:
        if not copy.is_file():
            raise
        fault = "is damaged"
    values = read_json(copy)
    log.warning("%s %s; it is written again from its copy", path, fault)
    if fault == "is damaged":
        write_json(path, values)
    else:
        _add(path, copy)
    return values


def _add(path: Path, copy: Path) -> None:
    """Write a record again from its copy, unless it is there."""
    # Its writer may be between the two files, and far beyond when this one writes.
    partial = partial_path(path)
    try:
        shutil.copyfile(copy, partial)
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def set_record_aside(path: Path) -> Path:
    """Move a record that is damaged twice out of the way. -> Where."""
    copy = _copy(path)
    if not path.is_file():
        copy.rename(path)
    copy.unlink(missing_ok=True)
    return set_aside(path, path.with_name(f"{path.name}.damaged"))


def records(folder: Path, pattern: str) -> list[Path]:
    """Records of a folder by name, the oldest first, also those of which the copy alone is left."""
    ages = {path: path.stat().st_mtime for path in folder.glob(pattern)}
    # A record that was written again from its copy is as old as that.
    for copy in folder.glob(f".{pattern}.copy"):
        ages[copy.with_name(copy.name[1:].removesuffix(".copy"))] = copy.stat().st_mtime
    return sorted(ages, key=ages.__getitem__)


def _copy(path: Path) -> Path:
    return path.with_name(f".{path.name}.copy")


def is_parquet(path: Path) -> bool:
    """Whether a table is there and was not cut short; its content is not read."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - len(_PARQUET), 0))
        return stream.read() == _PARQUET


def make_writable(folder: Path, key: str) -> None:
    """Create a folder; ``UserError`` that names the setting where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, key, error) from error
    require_writable(folder, key)


def require_writable(folder: Path, key: str) -> None:
    """As ``make_writable``, by the folder that it would be made in; nothing is left there."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        # Tried, since permissions do not say what a network disk refuses.
        probe = nearest / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, key, error) from error


def _unwritable(folder: Path, key: str, error: OSError) -> UserError:
    return UserError(
        f"{key}={folder} cannot be written to ({error.strerror}); choose another {key}"
    )


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine holds a folder."""
    if not (folder / ".lock").is_file():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # On a disk, or in a folder of somebody's, that can be read alone.
        return _is_held(folder / ".lock")


def _is_held(path: Path) -> bool:
    """As ``FileLock`` sees it on a POSIX system, of a file that cannot be written to."""
    import fcntl

    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


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
        with writing(path):
            path.write_text(str(os.getpid()))  # for that message alone
        yield
    finally:
        lock.release()
