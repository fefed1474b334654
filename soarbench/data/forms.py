"""The forms in which images with captions lie: a file of lines, a data set's tables, tar shards."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from soarbench.common.errors import ConfigError
from soarbench.common.strict import ADDRESS, ADDRESS_IF_SET
from soarbench.data.config import ImageDataConfig
from soarbench.data.contents import ends_digest, whole_digest
from soarbench.models.hub import is_directory

if TYPE_CHECKING:
    from soarbench.data.records import Record


@dataclass(frozen=True, kw_only=True)
class JsonlDataConfig(ImageDataConfig):
    """A JSON Lines file: ``caption`` with ``image`` or ``md5``; ``width``, ``height``, ``scores``.

    Attributes:
        image_dir: Folder that images lie in: as ``image`` says, or as ``MD5.SUFFIX`` in it or in a
            folder named after the first two digits. Null is the file's own folder.
        foreign_files: Whether rows may name files outside that folder; links in it may always.
    """

    kind: ClassVar[str] = "jsonl"

    image_dir: str | None = None
    foreign_files: bool = field(default=False, metadata=ADDRESS)

    @override
    def own_content(self) -> str:
        # A folder that is not there shows here, before a run, and not with the first image.
        self.image_folder()
        return whole_digest(self.file())

    def file(self) -> Path:
        """The file; ``ConfigError`` where there is none."""
        path = self._location()
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no such file"
            raise ConfigError(
                f"data.path={self.path}: {what}; give a JSON Lines file, or say data=datasets or "
                "data=webdataset"
            )
        return path

    def image_folder(self) -> Path:
        """The folder that its images lie in; ``ConfigError`` where there is none."""
        folder = self.file().parent if self.image_dir is None else Path(self.image_dir)
        if not folder.expanduser().is_dir():
            raise ConfigError(f"data.image_dir={self.image_dir}: no such folder")
        return folder.expanduser()

    @override
    def own_records(self) -> Iterator[Record]:
        return self._read_by("jsonl:jsonl_records")


@dataclass(frozen=True, kw_only=True)
class DatasetsDataConfig(ImageDataConfig):
    """A set for Hugging Face ``datasets``: parquet or image folder, saved directory, or hub id.

    Attributes:
        revision: Of a hub id; null takes the default branch.
        licence: Of the set, as its page states it; for people.
        data_files: Pattern of files in the set that are read, e.g. ``part_1/*.tar``; null: all.
        subset: Name of the hub set's configuration.
        split: Of the set.
        streaming: Whether it is read front to back and never stored; for more than a disk holds.
        image_column: Holds the images.
        caption_column: Holds the captions; ``json.prompt`` is a key of what a column of objects
            holds, as of tar shards.
        score_columns: Score to the column that holds it.
        foreign_files: Whether rows without an image's bytes may name files outside the set, and
            addresses, which are then fetched.
    """

    kind: ClassVar[str] = "datasets"

    revision: str | None = None
    licence: str | None = field(default=None, metadata=ADDRESS)
    data_files: str | None = field(default=None, metadata=ADDRESS_IF_SET)
    subset: str | None = None
    split: str = "train"
    streaming: bool = False
    image_column: str = "image"
    caption_column: str = "text"
    score_columns: Mapping[str, str] = field(default_factory=dict)
    foreign_files: bool = field(default=False, metadata=ADDRESS)

    @property
    @override
    def is_streamed(self) -> bool:
        return self.streaming

    @property
    @override
    def reading(self) -> Mapping[str, object]:
        names = ("subset", "split", "image_column", "caption_column", "score_columns")
        return {name: getattr(self, name) for name in names}

    @property
    def is_of_hub(self) -> bool:
        """Whether its path is a hub id."""
        return self.path is not None and not is_directory(self.path)

    @override
    def own_content(self) -> str:
        assert self.path is not None
        files = "" if self.data_files is None else f" {self.data_files}"
        # Of a hub id nothing may be there yet, and expanding a grid must not download it.
        if self.is_of_hub:
            return f"{self.path}@{self.revision}{files}"
        root = self._location()
        if not root.is_dir():
            raise ConfigError(f"data.path={self.path}: no such folder; give one, or a hub id")
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return f"{ends_digest(paths, root.absolute())}{files}"

    @override
    def own_records(self) -> Iterator[Record]:
        return self._read_by("tables:dataset_records")


def to_download(path: str, revision: str | None, data_files: str | None) -> str:
    """The command that gets a set of the hub into its cache."""
    chosen = "" if revision is None else f" --revision {revision}"
    include = "" if data_files is None else f" --include '{data_files}'"
    return f"hf download --repo-type dataset {path}{chosen}{include}"


@dataclass(frozen=True, kw_only=True)
class WebDatasetConfig(ImageDataConfig):
    """WebDataset tar shards, read front to back and never unpacked: samples of an image and a text.

    ``path`` is a folder of shards, or a pattern such as ``/data/part-*.tar``. A sample's caption is
    its ``.txt`` file, or ``caption_key`` of its ``.json`` file, which may also hold ``scores``.

    Attributes:
        caption_key: Of the ``.json`` file.
    """

    kind: ClassVar[str] = "webdataset"

    caption_key: str = "caption"

    @property
    @override
    def is_streamed(self) -> bool:
        return True

    @property
    @override
    def reading(self) -> Mapping[str, object]:
        return {"caption_key": self.caption_key}

    @override
    def own_content(self) -> str:
        # Shards of a pattern need have no folder that their names could be relative to.
        return ends_digest(self.shards(), Path("/"))

    def shards(self) -> list[Path]:
        """The tar files, sorted; ``ConfigError`` where there are none."""
        path = self._location()
        pattern = str(path / "*.tar") if path.is_dir() else str(path)
        # Sorted, since a file system's own order would make another content of a copied set.
        paths = sorted(Path(name).absolute() for name in glob.glob(pattern) if Path(name).is_file())
        if not paths:
            raise ConfigError(
                f"data.path={self.path}: no tar files there; give a folder of shards or a pattern, "
                "e.g. 'data.path=/data/part-*.tar'"
            )
        return paths

    @override
    def own_records(self) -> Iterator[Record]:
        return self._read_by("tables:shard_records")
