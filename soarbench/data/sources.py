"""Every form of a set as a stream of records."""

from __future__ import annotations

from collections.abc import Iterator

from soarbench.data.config import (
    DatasetsDataConfig,
    ImageDataConfig,
    JsonlDataConfig,
    WebDatasetConfig,
)
from soarbench.data.records import Record


def records_of(config: ImageDataConfig) -> Iterator[Record]:
    """Rows of a set, in its order, checked in everything but their images.

    Raises:
        UserError: The set cannot be read, or a row is malformed.
    """
    match config:
        case JsonlDataConfig():
            from soarbench.data.jsonl import jsonl_records

            return jsonl_records(config)
        case DatasetsDataConfig():
            from soarbench.data.tables import dataset_records

            return dataset_records(config)
        case WebDatasetConfig():
            from soarbench.data.tables import shard_records

            return shard_records(config)
        case _:
            raise AssertionError(type(config))


def is_streamed(config: ImageDataConfig) -> bool:
    """Whether records can only be had front to back."""
    return isinstance(config, WebDatasetConfig) or (
        isinstance(config, DatasetsDataConfig) and config.streaming
    )
