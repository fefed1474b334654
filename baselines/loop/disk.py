"""Files that are whole after a kill and a power cut, and manifests that prove it."""

# Imports no framework: the orchestrator reads manifests before it loads a model.
from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

#: A checkpoint of a full fine-tune has 40 GB: of longer files the two ends are read.
_END = 64 * 2**20
_FAULTS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "quota used up",
    errno.EFBIG: "file larger than is allowed",
    errno.EROFS: "read-only disk",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}
_DAY = 24 * 3600.0
_NUMBERS = itertools.count()


class StorageError(OSError):
    """A disk that takes nothing more, or gives back something else; names the file."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside the block a full, read-only or forbidden disk is a ``StorageError``."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        why = _fault(error)
        if why is None:
            raise
        raise StorageError(
            f"{why} while writing {path}; make room, then give the same command again"
        ) from error


def _fault(error: Exception) -> str | None:
    """What is wrong with the disk, by whatever a library made of it."""
    # torch's writer keeps no error number.
    if "inline_container.cc" in str(error):
        return "disk full or not writable"
    number = error.errno if isinstance(error, OSError) else None
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # of safetensors
        number = int(match[1])
    return None if number is None else _FAULTS.get(number)


def flush(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def flush_tree(folder: Path) -> None:
    """Bring a folder to the disk with everything in it."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def partial_path(target: Path) -> Path:
    """A name beside ``target`` that no other writer has, on whatever node it runs."""
    return target.with_name(f".{target.name}.{_host()}-{os.getpid()}-{next(_NUMBERS)}.partial")


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then rename it there: the last writer wins."""
    partial = partial_path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            # On the disk before the name is, so that a power cut leaves no empty file either.
            flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        flush(path.parent)


def remove_partials(folder: Path, pattern: str = "**/.*.partial") -> None:
    """Remove what killed processes were writing below a folder, and nothing that is being written.

    ``pattern`` says how deep is looked.
    """
    for path in list(folder.glob(pattern)):
        match = re.search(r"\.([^.]+)-(\d+)-\d+\.partial[-\w]*$", path.name)
        if match is None or _is_alive(path, host=match[1], process=int(match[2])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_alive(path: Path, *, host: str, process: int) -> bool:
    if host != _host():
        # Of another node nobody can be asked; nothing takes a day to be written.
        with contextlib.suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime < _DAY
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def atomic_directory(target: Path, allowed: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Write into the yielded directory; ``target`` appears, whole, when the block ends well.

    Where another process was quicker, its directory stays. ``allowed`` is asked last, and may
    raise.
    """
    partial = partial_path(target)
    with writing(target):
        partial.mkdir(parents=True)
        try:
            yield partial
            flush_tree(partial)
            allowed()
            try:
                partial.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        flush(target.parent)


def write_manifest(folder: Path, manifest: Path, files: Iterable[Path] | None = None) -> None:
    """Keep sizes and digests of files below a folder, by default of all."""
    if files is None:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest)
    facts = {str(path.relative_to(folder)): _facts(path) for path in files}
    text = json.dumps({"files": facts}, indent=1) + "\n"
    write_whole(manifest, lambda partial: partial.write_text(text))


def damage(folder: Path, manifest: Path) -> str | None:
    """What is wrong with a folder, by its manifest, in words that follow its name; None: nothing.

    Every file is there, and has its size and the digest of its ends.
    """
    try:
        files = json.loads(manifest.read_bytes())["files"]
        expected = {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has no readable {manifest.name} ({type(error).__name__})"
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"lacks {name}"
        if path.stat().st_size != size:
            return f"has {path.stat().st_size:,} of the {size:,} bytes of {name}"
        if _facts(path)[1] != digest:
            return f"has another {name} than was written"
    return None


def _facts(path: Path) -> tuple[int, str]:
    """Size, and the sha256 of a file's ends, which is all of one of up to 128 MiB."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as stream:
        digest.update(stream.read(_END))
        stream.seek(max(size - _END, stream.tell()))
        digest.update(stream.read())
    return size, digest.hexdigest()
