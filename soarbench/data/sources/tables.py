"""Sets that Hugging Face ``datasets`` reads: its own, parquet, image folders and tar shards."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from soarbench.common.errors import ConfigError, UserError
from soarbench.common.strict import did_you_mean
from soarbench.data.contents import check_inside
from soarbench.data.forms import DatasetsDataConfig, WebDatasetConfig, to_download
from soarbench.data.records import Record, caption_text, checked_scores, checked_size
from soarbench.models.hub import cached_set, first_line, is_directory

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Row = Mapping[str, Any]
Open = Callable[[], BinaryIO]
_FACTS = ("width", "height", "scores")


def dataset_records(config: DatasetsDataConfig) -> Iterator[Record]:
    """Rows of a set, in its order; ``UserError`` where it or a row cannot be used."""
    rows = _loaded(config)
    known = list(rows.column_names)
    caption = _column_of(config.caption_column, known)
    columns = {"image_column": config.image_column, "caption_column": caption}
    columns |= {f"score_columns.{name}": own for name, own in config.score_columns.items()}
    for key, name in columns.items():
        if name not in known:
            raise ConfigError(
                f"data.path={config.path}: there is no column {name!r} (data.{key}), "
                f"{did_you_mean(name, known)}"
            )
    facts = [n for n in (caption, *config.score_columns.values(), *_FACTS) if n in known]
    content = f"{config.own_content()} {config.subset} {config.split}"
    # Latents are kept by these keys, whatever else is asked of the set.
    column = "" if config.image_column == "image" else f" {config.image_column}"
    for number, (row, image) in enumerate(_rows(rows, facts, config)):
        place = f"{config.path} row {number}"
        own = {name: row[column] for name, column in config.score_columns.items()}
        yield Record(
            key=f"{content} {number}{column}",
            place=place,
            caption=caption_text(_value(row, config.caption_column)),
            open=image,
            size=checked_size(row.get("width"), row.get("height"), place),
            scores=checked_scores(row.get("scores"), place) | checked_scores(own, place),
        )


def _column_of(name: str, known: Sequence[str]) -> str:
    """The column that a name, or one of a key in it, is of."""
    return name if name in known else name.partition(".")[0]


def _value(row: Row, name: str) -> object:
    """A row's value by the name of its column, or ``COLUMN.KEY`` of an object in it."""
    if name in row:
        return row[name]
    column, _, key = name.partition(".")
    return row[column].get(key) if isinstance(row[column], Mapping) else None


def _rows(
    rows: Dataset | IterableDataset, facts: list[str], config: DatasetsDataConfig
) -> Iterator[tuple[Row, Open]]:
    """Every row without its image, and what opens that."""
    from datasets import Image, IterableDataset

    column = config.image_column
    # Left encoded: all forms of sets are decoded by the one reader of images, to the same pixels.
    with _explained(str(config.path)):
        rows = rows.cast_column(column, Image(decode=False))
    if isinstance(rows, IterableDataset):
        for row in _guarded(rows, str(config.path)):
            yield row, functools.partial(_opened, row[column], config)
        return
    # Records hold an index and not the bytes: a set's records are all kept while it is measured.
    for index, row in enumerate(rows.select_columns(facts)):
        yield row, functools.partial(_opened_at, rows, index, column, config)


def _loaded(config: DatasetsDataConfig) -> Dataset | IterableDataset:
    """The set: from a folder that ``datasets`` saved, or as it finds out by itself."""
    import datasets

    datasets.disable_progress_bars()
    assert config.path is not None
    path = str(Path(config.path).expanduser()) if is_directory(config.path) else config.path
    with _explained(config.path):
        if (Path(path) / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(Path(path) / config.split))
        if (Path(path) / "state.json").is_file():
            return datasets.load_from_disk(path)
        read = functools.partial(
            datasets.load_dataset, name=config.subset, data_files=config.data_files,
            split=config.split, streaming=config.streaming,
        )  # fmt: skip
        if not config.is_of_hub:
            return read(path)
        try:
            return read(path, revision=config.revision)
        except ConnectionError as error:
            return read(str(_cached(config, error)))


def _cached(config: DatasetsDataConfig, error: ConnectionError) -> Path:
    """The hub cache's folder of a set that the hub cannot be asked for."""
    # Second: only the hub knows whether all of a set is here where another program fetched it.
    assert config.path is not None
    files = None if config.data_files is None else [config.data_files]
    folder = cached_set(config.path, config.revision, files)
    if folder is None:
        command = to_download(config.path, config.revision, config.data_files)
        raise UserError(
            f"data.path={config.path}: the hub does not answer ({first_line(error)}), and its "
            f"cache does not have the set whole; get it where there is a network: {command}"
        ) from error
    return folder


def shard_records(config: WebDatasetConfig) -> Iterator[Record]:
    """Samples of tar shards, shard by shard; ``UserError`` where one is malformed."""
    from datasets import Image, load_dataset

    files = [str(path) for path in config.shards()]
    with _explained(str(config.path)):
        rows = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    columns = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    if not columns:
        raise UserError(f"data.path={config.path}: the samples of {files[0]} have no image")
    for column in columns:
        rows = rows.cast_column(column, Image(decode=False))
    content = config.own_content()
    for row in _guarded(rows, str(config.path)):
        url, name = row["__url__"], row["__key__"]
        place = f"{url} sample {name}"
        facts = row.get("json") or {}
        if not isinstance(facts, Mapping):
            raise UserError(f"{place}: its .json file must be an object")
        image = next((row[column] for column in columns if row[column]), None)
        yield Record(
            key=f"{content} {url} {name}",
            place=place,
            caption=caption_text(row.get("txt") or facts.get(config.caption_key)),
            open=functools.partial(_opened, image),
            size=checked_size(facts.get("width"), facts.get("height"), place),
            scores=checked_scores(facts.get("scores"), place),
        )


def _opened(image: Row | None, config: DatasetsDataConfig | None = None) -> BinaryIO:
    """The file of an image that ``datasets`` left encoded: its bytes, or where they are.

    Of shards, which have no ``config``, only bytes.
    """
    import fsspec

    if image is None:
        raise OSError("there is no image")
    if image["bytes"] is not None:
        return BytesIO(image["bytes"])
    if config is None or image["path"] is None:
        raise OSError("there are no bytes of it")
    if not config.foreign_files:
        _check_own(image["path"], config)
    opened: BinaryIO = fsspec.open(image["path"], "rb").open()
    return opened


def _check_own(path: str, config: DatasetsDataConfig) -> None:
    """``OSError`` for a file or an address that is neither of the set nor in the hub's caches."""
    from datasets import config as places
    from huggingface_hub import constants

    assert config.path is not None
    # What lies in an archive is named by both, the archive last: zip://a.png::hf://datasets/...
    place = path.rpartition("::")[2]
    if "://" in place:
        if not place.startswith(f"hf://datasets/{config.path}"):
            raise PermissionError(
                f"{place} is an address outside the set; data.foreign_files=true fetches it"
            )
        return
    caches = (places.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)
    check_inside(place, [Path(config.path).expanduser(), *map(Path, caches)])


def _opened_at(rows: Dataset, index: int, column: str, config: DatasetsDataConfig) -> BinaryIO:
    return _opened(rows[index][column], config)


def _guarded(rows: Iterable[Row], path: str) -> Iterator[Row]:
    """The rows; what goes wrong in reading them becomes one line."""
    # Not a loop inside the guard: that would catch what the rows' user raises, too.
    iterator = iter(rows)
    while True:
        with _explained(path):
            row = next(iterator, None)
        if row is None:
            return
        yield row


@contextmanager
def _explained(path: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    # RuntimeError: a folder with a script, which is never run.
    except (OSError, ValueError, RuntimeError, tarfile.TarError, DatasetsError) as error:
        raise UserError(
            f"data.path={path}: `datasets` cannot read it ({first_line(error)}); check the path, "
            "data.split and the files"
        ) from error
