"""Encoded training rows: latents and conditions, memory-mapped or made when they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from evaluators.images import ImageError
from soarbench.common.errors import UserError
from soarbench.common.progress import Pace
from soarbench.data.buckets import Size, fit
from soarbench.data.curation import Curation, Entry, write_entries
from soarbench.data.encoded_rows import (
    ColumnsOf,
    ConditionOf,
    EncodedRows,
    EncodeImages,
    no_columns,
)
from soarbench.data.records import Record
from soarbench.data.sources.source import records_of
from soarbench.models.tensor_store import TensorStore

log = logging.getLogger(__name__)
#: Images of one file of latents: 17 MB at 512 px, and SOAR's 286,119 pairs are 4,500 files.
_PER_FILE = 64


class ImageSet(Curation):
    """A set of somebody's images: its rows are found by a curation, and their latents kept."""

    def captions(self) -> list[str]:
        """All of them, read from the set or from what is remembered of it."""
        return [entry.caption for entry in self.entries()]

    def rows(self, encode: EncodeImages, condition: ConditionOf, folder: Path) -> EncodedRows:
        """The rows; images are encoded once, unless the configuration keeps no latents."""
        entries = self.entries()
        if not self.config.cache_latents:
            return fresh_rows(entries, self, encode, condition)
        store = TensorStore(folder / "latents")
        return stored_rows(encode_entries(entries, self, store, encode), store, condition)


def latent_key(entry: Entry) -> str:
    """Key of an image's latents."""
    # With the size that it is trained at: other buckets leave the latents of the first ones valid.
    return f"{entry.key} {entry.bucket[0]}x{entry.bucket[1]}"


def encode_entries(
    entries: Sequence[Entry], curation: Curation, store: TensorStore, encode: EncodeImages
) -> list[Entry]:
    """Encode what is not in the store; ``UserError`` where too much is damaged. -> Sound rows."""
    missing = {entry.key: entry for entry in entries if latent_key(entry) not in store}
    if not missing:
        return list(entries)
    pace = Pace("encoded images", len(missing), log.info)
    damaged: set[str] = set()
    # The set is read once, in its order, as a streamed one must be; a file holds one size.
    waiting: dict[Size, dict[str, Image.Image]] = {}
    for record in records_of(curation.config):
        entry = missing.pop(record.key, None)
        if entry is None:
            continue
        try:
            image = fit(record.image(), entry.bucket)
        except ImageError as error:
            # Its header was sound, so curation let it through.
            damaged.add(record.key)
            curation.unusable.add(record.place, str(error))
            curation.unusable.check()
            continue
        batch = waiting.setdefault(entry.bucket, {})
        batch[latent_key(entry)] = image
        if len(batch) == _PER_FILE:
            _flush(batch, store, encode)
        pace.advance(1)
    for batch in waiting.values():
        _flush(batch, store, encode)
    pace.finish()
    if missing:
        raise UserError(_changed(next(iter(missing.values())), curation))
    return _without(damaged, entries, curation)


def _changed(entry: Entry, curation: Curation) -> str:
    return (
        f"{entry.place} has changed since the set was first read: bring the old file back, or move "
        f"{curation.path} away, and the set is read again"
    )


def _flush(batch: dict[str, Image.Image], store: TensorStore, encode: EncodeImages) -> None:
    if batch:
        store.add(list(batch), {"x0": encode(list(batch.values()))})
        batch.clear()


def _without(damaged: set[str], entries: Sequence[Entry], curation: Curation) -> list[Entry]:
    kept = [entry for entry in entries if entry.key not in damaged]
    if not kept:
        raise UserError(f"data.path={curation.config.path}: every image is damaged")
    if damaged:
        # For good: all cells train on the same rows, whoever encodes them.
        write_entries(curation.path, kept)
    return kept


def _rows(
    entries: Sequence[Entry],
    latents: Callable[[int], Tensor],
    condition: ConditionOf,
    columns: ColumnsOf = no_columns,
) -> EncodedRows:
    captions = [entry.caption for entry in entries]
    return EncodedRows(captions, latents, condition, [entry.bucket for entry in entries], columns)


def stored_rows(
    entries: Sequence[Entry],
    store: TensorStore,
    condition: ConditionOf,
    columns: ColumnsOf = no_columns,
) -> EncodedRows:
    """Rows whose latents are in a store."""
    keys = [latent_key(entry) for entry in entries]
    return _rows(entries, lambda index: store[keys[index]]["x0"], condition, columns)


def fresh_rows(
    entries: Sequence[Entry], curation: Curation, encode: EncodeImages, condition: ConditionOf
) -> EncodedRows:
    """Rows whose images are read and encoded every time; their set is not streamed."""
    records: dict[str, Record] = {record.key: record for record in records_of(curation.config)}
    for entry in entries:
        if entry.key not in records:
            raise UserError(_changed(entry, curation))

    def latents(index: int) -> Tensor:
        entry = entries[index]
        try:
            image = fit(records[entry.key].image(), entry.bucket)
        except ImageError as error:
            raise UserError(
                f"{error}; with data.cache_latents=true it would be left out"
            ) from error
        return encode([image])[0].cpu()

    return _rows(entries, latents, condition)
