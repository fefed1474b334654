"""Every form of a set as a stream of records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from soarbench.common.errors import UserError
from soarbench.data.config import ImageDataConfig
from soarbench.data.records import Record, checked_scores
from soarbench.data.sources.jsonl import read_lines

#: Of a row in a file of scores: its record's key.
KEY = "key"


def records_of(config: ImageDataConfig) -> Iterator[Record]:
    """Rows of a set, in its order, checked in everything but their captions and images."""
    if config.scores is None:
        yield from config.own_records()
        return
    scores = {}
    for place, row in read_lines(config.scores_file()):
        if not isinstance(row.get(KEY), str):
            raise UserError(f"{place}: no {KEY!r}; data.scores takes what `data score` wrote")
        scores[row[KEY]] = checked_scores(row.get("scores"), place)
    for record in config.own_records():
        if record.key in scores:
            yield dataclasses.replace(record, scores={**record.scores, **scores[record.key]})
