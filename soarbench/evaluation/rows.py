"""Scores of one judge as rows: appended as they are made, one Parquet file when all are there."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluators.base import NO_ANSWER, Sample, Score
from soarbench.common.errors import Damaged
from soarbench.common.files import is_parquet, set_table_aside, write_atomically

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

log = logging.getLogger(__name__)


def score_row(sample: Sample, score: Score, fingerprint: str, facts: Row) -> Row:
    """The row of a score; ``facts`` are ``image_index`` (0 without) and ``image_sha256``."""
    tag = sample.metadata.get("tag")
    # Kept where there is no score, too: a task that lost all of its images must be missed.
    kept = {"tag": tag} if score.reason is not None and isinstance(tag, str) else {}
    return {
        "prompt_id": sample.prompt_id,
        "prompt": sample.prompt,
        "image_index": facts.get("image_index", 0),
        "sample_id": score.sample_id,
        "image_sha256": facts.get("image_sha256"),
        "value": math.nan if score.reason is not None else float(score.value),
        "reason": score.reason,
        "details": json.dumps({**kept, **score.details}),
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


def is_unanswered(row: Row) -> bool:
    """Whether the judge of an image did not answer, for reasons that may have passed."""
    return str(row["reason"] or "").startswith(NO_ANSWER)


@dataclass(frozen=True)
class ScoreRows:
    """The rows of one judge in a folder; a killed process loses at most the images it had at hand.

    Several processes may append at once: rows that were judged together are a file of their own.
    """

    root: Path

    @property
    def path(self) -> Path:
        """All rows that were asked for so far."""
        return self.root / "rows.parquet"

    @property
    def partial_dir(self) -> Path:
        """Rows of a judging that is under way, a JSON list a file."""
        return self.root / "rows.partial"

    def read(self) -> list[dict[str, object]]:
        """Every row that was made, the finished ones first."""
        return [*self.finished(), *self._partial()]

    def finished(self) -> list[dict[str, object]]:
        """The rows of the one table."""
        return read_table(self.path).to_pylist() if self.path.is_file() else []

    def drop_damaged(self) -> None:
        """Move a damaged table away, whose images are then judged again."""
        try:
            self.finished()
        except Damaged as damage:
            log.warning("%s", damage)

    def count(self) -> int:
        """How many rows there are."""
        # A dry run asks this of every judge and step: the table's header is enough.
        finished = pq.read_metadata(self.path).num_rows if is_parquet(self.path) else 0
        return finished + sum(1 for _ in self._partial())

    def _partial(self) -> Iterator[dict[str, object]]:
        for path in sorted(self.partial_dir.glob("*.json")):
            yield from _together(path) or ()

    def _chunk_path(self, sample_ids: Iterable[str]) -> Path:
        digest = hashlib.sha256(json.dumps(list(sample_ids)).encode()).hexdigest()
        return self.partial_dir / f"{digest[:32]}.json"

    def has(self, sample_ids: Iterable[str]) -> bool:
        """Whether the rows of these images, judged together, were appended."""
        return _together(self._chunk_path(sample_ids)) is not None

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of images that were judged together."""
        # They share a file, and so are lost together: a judging that goes on asks about the same
        # images at once as one that was never stopped, and gets the same bits.
        path = self._chunk_path(str(row["sample_id"]) for row in rows)
        write_atomically(path, lambda partial: partial.write_text(json.dumps(rows)))

    def finish(self, order: Sequence[str]) -> None:
        """Make one table of all rows, by sample ids; others, that were judged before, follow."""
        rows: dict[str, dict[str, object]] = {}
        # Of another launch that judges a part of these images, files may come at any moment.
        paths = sorted(self.partial_dir.glob("*.json"))
        # A kill before the end leaves rows twice; those of the table are the finished ones, unless
        # their judge did not answer, and was asked again.
        made = [self.finished(), *(_together(path) or [] for path in paths)]
        for row in itertools.chain.from_iterable(made):
            name = str(row["sample_id"])
            if name not in rows or is_unanswered(rows[name]):
                rows[name] = row
        if lacking := [name for name in order if name not in rows]:
            text = f"{self.partial_dir} lacks the scores of {len(lacking)} images"
            raise _damaged(self.root, text)
        ids = dict.fromkeys([*order, *rows])
        table = pa.Table.from_pylist([rows[name] for name in ids], SCHEMA)
        write_atomically(self.path, lambda partial: pq.write_table(table, partial))
        for path in paths:
            path.unlink(missing_ok=True)
        # Not empty: rows that came meanwhile.
        with contextlib.suppress(OSError):
            self.partial_dir.rmdir()


def _together(path: Path) -> list[dict[str, object]] | None:
    """Rows that were judged together; None, and the file is gone, where they are damaged."""
    try:
        rows: list[dict[str, object]] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("%s is damaged (%s); its images are judged again", path, error)
        path.unlink(missing_ok=True)
        return None
    return rows


def read_table(path: Path) -> pa.Table:
    """A table of scores; ``Damaged`` where it is no such table, and is moved away."""
    try:
        return pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        remedy = "the command that scored its images makes it again"
        raise _damaged(path.parent, f"{set_table_aside(path, error)}; {remedy}") from error


def _damaged(folder: Path, text: str) -> Damaged:
    return Damaged(text, f"{folder.parent.name}/{folder.name}")
