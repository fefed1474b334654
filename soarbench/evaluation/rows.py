"""Scores of one judge as rows: appended as they are made, one Parquet file when all are there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluators.base import Sample, Score
from soarbench.common.errors import UserError
from soarbench.common.files import write_atomically

#: A row: what was asked for, what was judged, and what came of it.
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("image_index", pa.int64()),
        ("sample_id", pa.string()),
        # Of the file, where somebody else made it; null for images that the store itself drew.
        ("image_sha256", pa.string()),
        # nan exactly where ``reason`` says why there is no score: elsewhere a sentinel of -10 was
        # filtered out, or not, and an engine's error became a 0.
        ("value", pa.float64()),
        ("reason", pa.string()),
        ("details", pa.string()),
        ("fingerprint", pa.string()),
    ]
)
Row = Mapping[str, object]


def score_row(sample: Sample, score: Score, fingerprint: str, facts: Row) -> Row:
    """The row of a score; ``facts`` are ``image_index`` (0 without) and ``image_sha256``."""
    return {
        "prompt_id": sample.prompt_id,
        "prompt": sample.prompt,
        "image_index": facts.get("image_index", 0),
        "sample_id": score.sample_id,
        "image_sha256": facts.get("image_sha256"),
        "value": math.nan if score.reason is not None else float(score.value),
        "reason": score.reason,
        "details": json.dumps(dict(score.details)),
        # In every row: libraries may be newer when an interrupted judging goes on.
        "fingerprint": fingerprint,
    }


def score_of(row: Row) -> Score:
    """The score of a row."""
    name, reason = str(row["sample_id"]), row["reason"]
    if reason is not None:
        return Score.unscored(name, str(reason))
    return Score(
        sample_id=name, value=float(str(row["value"])), details=json.loads(str(row["details"]))
    )


@dataclass(frozen=True)
class ScoreRows:
    """The rows of one judge in a folder; a killed process loses at most the line it was writing."""

    root: Path

    @property
    def path(self) -> Path:
        """All rows that were asked for so far."""
        return self.root / "rows.parquet"

    @property
    def partial_path(self) -> Path:
        """Rows of a judging that is under way, a JSON list a line."""
        return self.root / "rows.partial.jsonl"

    def read(self) -> list[dict[str, object]]:
        """Every row that was made, the finished ones first."""
        finished = read_table(self.path).to_pylist() if self.path.is_file() else []
        return [*finished, *self._partial()]

    def count(self) -> int:
        """How many rows there are."""
        # A dry run asks this of every judge and step: the table's header is enough.
        finished = pq.read_metadata(self.path).num_rows if self.path.is_file() else 0
        return finished + sum(1 for _ in self._partial())

    def _partial(self) -> Iterator[dict[str, object]]:
        if not self.partial_path.is_file():
            return
        content = self.partial_path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            # A torn last line is cut off, or the next rows would be appended to it.
            with self.partial_path.open("r+b") as stream:
                stream.truncate(len(whole))
        for line in whole.splitlines():
            yield from json.loads(line)

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of images that were judged together."""
        self.root.mkdir(parents=True, exist_ok=True)
        # They share a line, and so are lost together: a judging that goes on asks about the same
        # images at once as one that was never stopped, and gets the same bits.
        with self.partial_path.open("a") as stream:
            stream.write(f"{json.dumps(rows)}\n")

    def finish(self, order: Sequence[str]) -> None:
        """Make one table of all rows, by sample ids; others, that were judged before, follow."""
        rows = {str(row["sample_id"]): row for row in self.read()}
        ids = dict.fromkeys([*order, *rows])
        table = pa.Table.from_pylist([rows[name] for name in ids], SCHEMA)
        write_atomically(self.path, lambda partial: pq.write_table(table, partial))
        # A kill before this leaves rows twice, which the dictionary above makes one.
        self.partial_path.unlink(missing_ok=True)


def read_table(path: Path) -> pa.Table:
    """A table of scores; ``UserError`` where it is damaged, or no table of scores."""
    try:
        return pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete {path.parent} and give the same command again"
        ) from error
