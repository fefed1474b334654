"""Where a set of images lies, and what identifies its content; imports no framework."""

from __future__ import annotations

import functools
import glob
import hashlib
from pathlib import Path

from soarbench.common.errors import ConfigError
from soarbench.common.files import files_digest
from soarbench.data.config import (
    DatasetsDataConfig,
    ImageDataConfig,
    JsonlDataConfig,
    WebDatasetConfig,
)
from soarbench.models.hub import is_directory

#: Read at either end of a file of images, whose name and size say most.
_END = 2**20


def dataset_digest(data: DatasetsDataConfig) -> str:
    """Digest of a set for ``datasets`` that lies on this machine; of a hub id its revision.

    Raises:
        ConfigError: There is nothing at ``data.path``.
    """
    assert data.path is not None
    if not is_directory(data.path):
        return f"{data.path}@{data.revision}"
    root = Path(data.path).expanduser()
    if not root.is_dir():
        raise ConfigError(f"data.path={data.path}: no such folder; give one, or a hub id")
    return ends_digest(sorted(p for p in root.rglob("*") if p.is_file()), root.absolute())


def scores_digest(data: ImageDataConfig) -> str:
    """Digest of a set's file of scores.

    Raises:
        ConfigError: There is none.
    """
    return whole_digest(scores_path(data))


def jsonl_path(data: JsonlDataConfig) -> Path:
    """The file of a set.

    Raises:
        ConfigError: There is none.
    """
    assert data.path is not None
    path = Path(data.path).expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ConfigError(
            f"data.path={data.path}: {what}; give a JSON Lines file, or say data=datasets or "
            "data=webdataset"
        )
    return path


def image_folder(data: JsonlDataConfig) -> Path:
    """The folder that a file's images lie in.

    Raises:
        ConfigError: It does not exist.
    """
    folder = jsonl_path(data).parent if data.image_dir is None else Path(data.image_dir)
    if not folder.expanduser().is_dir():
        raise ConfigError(f"data.image_dir={data.image_dir}: no such folder")
    return folder.expanduser()


def shard_paths(data: WebDatasetConfig) -> list[Path]:
    """The tar files of a set, sorted.

    Raises:
        ConfigError: There are none.
    """
    assert data.path is not None
    path = Path(data.path).expanduser()
    pattern = str(path / "*.tar") if path.is_dir() else str(path)
    paths = sorted(Path(name).absolute() for name in glob.glob(pattern) if Path(name).is_file())
    if not paths:
        raise ConfigError(
            f"data.path={data.path}: no tar files there; give a folder of shards or a pattern, "
            "e.g. 'data.path=/data/part-*.tar'"
        )
    return paths


def scores_path(data: ImageDataConfig) -> Path:
    """The file of a set's scores.

    Raises:
        ConfigError: There is none.
    """
    assert data.scores is not None
    path = Path(data.scores).expanduser()
    if not path.is_file():
        raise ConfigError(f"data.scores={data.scores}: no such file; make it with `data score`")
    return path


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
