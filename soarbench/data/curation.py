"""From somebody's set to the rows that are trained on: measured, judged, selected, listed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluators.base import Sample
from evaluators.images import ImageError
from soarbench.common.errors import UserError
from soarbench.common.files import parts_digest
from soarbench.data.buckets import Size, is_smaller, nearest_bucket
from soarbench.data.config import ImageDataConfig
from soarbench.data.records import Record, Scorer, caption_fault
from soarbench.data.select import best_share, first_below
from soarbench.data.sources.jsonl import write_lines
from soarbench.data.sources.source import records_of

log = logging.getLogger(__name__)
#: Images decoded and judged at a time: what a killed process has to judge again at most.
CHUNK = 32


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row that is trained on: of a record, with the size that its image is trained at."""

    key: str
    place: str
    caption: str
    bucket: Size
    scores: Mapping[str, float]


@dataclass
class Unusable:
    """Images that cannot be trained on, listed in a file; a stated number of them is left out."""

    config: ImageDataConfig
    path: Path
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, reason: str) -> None:
        """List one."""
        self.reasons[place] = reason

    def check(self) -> None:
        """Write the list; ``UserError`` where it is longer than is allowed."""
        if not self.reasons:
            return
        reasons, allowed = list(self.reasons.values()), self.config.max_unreadable
        write_lines(self.path, ({"image": p, "reason": why} for p, why in self.reasons.items()))
        if len(reasons) > allowed:
            raise UserError(
                f"data.path={self.config.path}: {len(reasons)} images cannot be used, more than "
                f"data.max_unreadable={allowed}; the first: {reasons[0]} (all are listed in "
                f"{self.path})"
            )


_NUM_ENTRIES = "num_entries"


class ScoreBook:
    """What a judge said of images: JSON Lines, appended as it is said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = path.read_bytes() if path.is_file() else b""
        # A killed process leaves a torn last line, onto which the next one would be written.
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        self.values: dict[str, float] = {}
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                self.values[str(row["key"])] = float(row["value"])
            except (ValueError, TypeError, KeyError) as error:
                log.warning("%s: a damaged line (%s) is judged again", path, error)

    def add(self, scores: Mapping[str, float]) -> None:
        """Append scores."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as stream:
            for key, value in scores.items():
                stream.write(json.dumps({"key": key, "value": value}) + "\n")
        self.values |= scores


class Curation:
    """Finds the rows of a set that are trained on, once, and remembers them.

    Arguments are those of ``DataConfig.open``; the ``content`` of ``config`` is known.
    """

    def __init__(
        self,
        config: ImageDataConfig,
        resolution: int,
        scorers: Mapping[str, Scorer],
        judges: object,
        folder: Path,
    ) -> None:
        self.config = config
        self.scorers = scorers
        self.sizes = config.sizes(resolution)
        # What may be read changes no row that is: remembered ones stay.
        asked = {k: v for k, v in dataclasses.asdict(config).items() if k != "foreign_files"}
        name = parts_digest(asked, config.kind, resolution, judges)
        self.path = folder / f"rows-{name}.jsonl"
        self.unusable = Unusable(config, folder / f"unusable-{name}.jsonl")
        # Scores know nothing of thresholds or sizes: with others the same ones are asked for.
        name = parts_digest(config.content, judges)
        self._books = {s: ScoreBook(folder / f"scores-{s}-{name}.jsonl") for s in scorers}
        self._below: Counter[str] = Counter()
        self._count = 0
        self._measured: list[tuple[Record, Size]] | None = None

    def measure(self) -> None:
        """Look at every caption and header of a set; ``UserError`` for what cannot be used."""
        # Of a streamed set that would be a download of all of it, before the one that reads it.
        if self._measured is None and not self.path.is_file() and not self.config.is_streamed:
            self._measured = list(self._usable())
            self.unusable.check()
            if not self._measured:
                raise UserError(self._nothing())

    def entries(self) -> list[Entry]:
        """The rows; ``UserError`` where something cannot be used, or nothing is left."""
        # What is remembered stays as it is, so that all cells train on the same rows.
        if (remembered := read_entries(self.path)) is not None:
            return remembered
        self.measure()
        kept: list[Entry] = []
        usable = iter(self._usable() if self._measured is None else self._measured)
        while chunk := list(itertools.islice(usable, CHUNK)):
            kept += self._judged(chunk)
            # The run ends at the first image too many, not after hours of judging.
            self.unusable.check()
            # Here and not after the last row: a streamed set may have terabytes left.
            if self.config.max_rows is not None and len(kept) >= self.config.max_rows:
                kept = kept[: self.config.max_rows]
                break
        self._measured = None
        if not kept:
            raise UserError(self._nothing())
        if self.config.rank_by:
            scores = {name: [row.scores[name] for row in kept] for name in self.config.rank_by}
            kept = [kept[i] for i in best_share(scores, self.config.keep_fraction)]
        write_entries(self.path, kept)
        log.info("%d of %d rows of %s are kept", len(kept), self._count, self.config.path)
        if self.unusable.reasons:
            log.warning("%d are left out: see %s", len(self.unusable.reasons), self.unusable.path)
        return kept

    def _usable(self) -> Iterator[tuple[Record, Size]]:
        """Records above the thresholds, as far as their scores are known, and their buckets."""
        known: set[str] = set()
        for record in records_of(self.config):
            self._count += 1
            # First, as it costs nothing, and what is not trained on may be damaged.
            if not self._reaches_thresholds(record.scores):
                continue
            fault = caption_fault(record, self.config.max_caption_length)
            if fault is not None:
                raise UserError(fault)
            # Before its image is opened: a misspelt threshold must not cost a pass over the set.
            self._require_scores(record)
            try:
                # Rows of one md5 share latents: the images of the others are not opened again.
                if record.md5 in known:
                    record.check_md5()
                elif record.md5 is not None:
                    known.add(record.md5)
                yield record, self._bucket(record)
            except ImageError as error:
                self.unusable.add(record.place, str(error))

    def _reaches_thresholds(self, scores: Mapping[str, float]) -> bool:
        low = first_below(scores, self.config.thresholds)
        if low is not None:
            self._below[low] += 1
        return low is None

    def _require_scores(self, record: Record) -> None:
        for name in self.config.select_by:
            if name not in record.scores and name not in self.scorers:
                raise UserError(
                    f"{record.place}: no score {name!r}, and there is no judge of that name; add "
                    "it to the row's scores, or leave it out of data.thresholds and data.rank_by"
                )

    def _bucket(self, record: Record) -> Size:
        """The size that an image is trained at; ``ImageError`` where it is missing or smaller."""
        size = record.measured()
        bucket = self.sizes[nearest_bucket(size, self.sizes)]
        if is_smaller(size, bucket):
            raise ImageError(
                f"{record.place}: {size[0]} x {size[1]} pixels, smaller than the {bucket[0]} x "
                f"{bucket[1]} it is trained at; remove it, or lower model.resolution"
            )
        return bucket

    def _judged(self, chunk: Sequence[tuple[Record, Size]]) -> Iterator[Entry]:
        """Those of a chunk whose scores, given by judges where need be, reach the thresholds."""
        # Not by key: a row may be there twice, with scores of its own.
        scores = [dict(record.scores) for record, _ in chunk]
        for name in self.config.select_by:
            lacking = [i for i, own in enumerate(scores) if name not in own]
            values = self._scored(name, [chunk[i][0] for i in lacking])
            for i, value in zip(lacking, values, strict=True):
                scores[i][name] = value
        for (record, bucket), own in zip(chunk, scores, strict=True):
            # No comparison with nan is true, so a threshold would let it through.
            if any(math.isnan(own[name]) for name in self.config.select_by):
                continue
            if self._reaches_thresholds(own):
                yield Entry(
                    key=record.key, place=record.place, caption=record.caption,
                    bucket=bucket, scores=own,
                )  # fmt: skip

    def _scored(self, name: str, records: Sequence[Record]) -> list[float]:
        """A judge's score of each record; nan, and listed, where there is none."""
        if not records:
            return []
        book = self._books[name]
        samples, damaged = [], {}
        for record in records:
            if score_key(record) not in book.values:
                try:
                    samples.append(sample_of(record))
                except ImageError as error:
                    damaged[score_key(record)] = str(error)
        if samples:
            values = self.scorers[name](samples)
            book.add({sample.sample_id: v for sample, v in zip(samples, values, strict=True)})
        scores = [book.values.get(score_key(record), math.nan) for record in records]
        for record, score in zip(records, scores, strict=True):
            if math.isnan(score):
                reason = f"{record.place}: {name} gave it no score"
                self.unusable.add(record.place, damaged.get(score_key(record), reason))
        return scores

    def _nothing(self) -> str:
        least = self.config.thresholds
        below = ", ".join(f"{n} are below {name}>={least[name]}" for name, n in self._below.items())
        causes = below or f"{len(self.unusable.reasons)} cannot be used"
        return (
            f"data.path={self.config.path}: 0 of {self._count} rows are usable ({causes}); check "
            "the set, and lower data.thresholds where they leave nothing"
        )


def score_key(record: Record) -> str:
    """Key of a score."""
    # Not the image alone: CLIPScore and its like judge it together with the caption.
    return parts_digest(record.key, record.caption)


def sample_of(record: Record) -> Sample:
    """A record as judges see it; ``ImageError`` where its image cannot be read."""
    key = score_key(record)
    return Sample(sample_id=key, prompt_id=key, prompt=record.caption, image=record.image())


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Remember rows."""
    rows = [dataclasses.asdict(entry) for entry in entries]
    # The last line says that all are there: a cell would train on half of them without a word.
    write_lines(path, [*rows, {_NUM_ENTRIES: len(rows)}])


def read_entries(path: Path) -> list[Entry] | None:
    """Rows that ``write_entries`` wrote; None where there are none, or (removed) damaged ones."""
    if not path.is_file():
        return None
    try:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        # Older versions wrote no such line.
        count = rows.pop()[_NUM_ENTRIES] if _NUM_ENTRIES in rows[-1] else len(rows)
        entries = [Entry(**(row | {"bucket": tuple(row["bucket"])})) for row in rows]
        fault = None if len(entries) == count else f"{len(entries)} of {count} rows"
    except (ValueError, TypeError, KeyError, IndexError) as error:
        entries, fault = [], f"{type(error).__name__}: {error}"
    if fault is None:
        return entries
    log.warning("%s is damaged (%s); it is made again", path, fault)
    path.unlink(missing_ok=True)
    return None
