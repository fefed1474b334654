"""``python -m soarbench data score`` and ``filter``: a set's scores, and the part above one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console

from evaluators.base import Evaluator, EvaluatorError, Sample
from evaluators.images import ImageError
from soarbench.common.errors import UserError
from soarbench.common.files import make_writable, read_json, write_json
from soarbench.common.progress import Pace
from soarbench.data.config import ImageDataConfig, JsonlDataConfig
from soarbench.data.content import image_folder, jsonl_path
from soarbench.data.curation import CHUNK, Unusable, sample_of
from soarbench.data.records import Record, caption_fault, checked_scores
from soarbench.data.select import first_below
from soarbench.data.sources.jsonl import read_lines
from soarbench.data.sources.source import KEY, records_of

Row = Mapping[str, object]


class SetScoring:
    """Scores every row of a set by one judge, and writes the rows with their scores.

    Rows are appended as they are scored, so that the same command goes on where it was stopped.

    Args:
        data: The set.
        judge: Its name in scores.
        evaluator: The judge.
        output: JSON Lines that are written.
        console: Where progress goes.
    """

    def __init__(
        self,
        data: ImageDataConfig,
        judge: str,
        evaluator: Evaluator,
        output: Path,
        console: Console,
    ) -> None:
        self.data, self.judge, self.evaluator = data, judge, evaluator
        self.output, self.console = output, console
        self.partial = output.with_name(f"{output.name}.partial")
        self.plan_path = output.with_name(f"{output.name}.plan.json")
        self.unusable = Unusable(data, output.with_name(f"{output.stem}.unusable.jsonl"))

    def run(self) -> None:
        """Score what is not scored yet.

        Raises:
            UserError: The output holds something else, or an image cannot be used.
            EvaluatorError: The judge cannot be used.
        """
        make_writable(self.output.parent, "output")
        self._claim_output()
        if self.output.is_file():
            self._say(f"{self.output} is finished; nothing is left to score")
            return
        done = self._done()
        rows = itertools.islice(self._rows(), done, None)
        pace = Pace(f"{self.judge}: scored images", None, self._say)
        with self.partial.open("a", encoding="utf-8") as stream:
            while chunk := list(itertools.islice(rows, CHUNK)):
                self._write(chunk, stream)
                self.unusable.check()
                pace.advance(len(chunk))
        if not self.partial.stat().st_size:
            raise UserError(f"data.path={self.data.path}: holds no rows")
        pace.finish()
        self.partial.replace(self.output)
        self._say(f"wrote {self.output}{self._hint()}")

    def _claim_output(self) -> None:
        """Make sure that an earlier launch with this output wanted the same."""
        plan: dict[str, object] = {
            "content": self.data.content,
            "judge": self.judge,
            "version": self.evaluator.version,
            "weights": self.evaluator.weights_hash,
            "settings": json.loads(json.dumps(dict(self.evaluator.settings))),
        }
        if self.plan_path.is_file():
            if read_json(self.plan_path) != plan:
                raise UserError(
                    f"output={self.output} holds scores of another set or judge; nothing was "
                    "written over, choose another output"
                )
        elif self.output.exists():
            raise UserError(f"output={self.output} exists already; choose another output")
        else:
            write_json(self.plan_path, plan)

    def _done(self) -> int:
        """Whole rows of an earlier launch; a torn last line is cut off."""
        if not self.partial.is_file():
            return 0
        content = self.partial.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self.partial.write_bytes(whole)
        count = whole.count(b"\n")
        self._say(f"{self.judge}: {count} rows were scored before")
        return count

    def _rows(self) -> Iterator[tuple[Record, Row]]:
        """Every record and the row that is written for it."""
        if not isinstance(self.data, JsonlDataConfig):
            for record in records_of(self.data):
                yield record, {KEY: record.key, "caption": record.caption}
            return
        lines = read_lines(jsonl_path(self.data))
        for record, (_, row) in zip(
            records_of(dataclasses.replace(self.data, scores=None)), lines, strict=True
        ):
            yield record, row | {KEY: record.key}

    def _write(self, chunk: Sequence[tuple[Record, Row]], stream: TextIO) -> None:
        samples: list[Sample | None] = [self._sample(record) for record, _ in chunk]
        found = self.evaluator.score([sample for sample in samples if sample is not None])
        values = iter(found)
        for (record, row), sample in zip(chunk, samples, strict=True):
            score = None if sample is None else next(values)
            if score is not None and math.isnan(score.value):
                self.unusable.add(record.place, f"{record.place}: {score.reason}")
            value = None if score is None or math.isnan(score.value) else float(score.value)
            scores = dict(record.scores) | {self.judge: value}
            stream.write(json.dumps({**row, "scores": scores}, ensure_ascii=False) + "\n")
        stream.flush()

    def _sample(self, record: Record) -> Sample | None:
        """A record as the judge sees it; None, and listed, if its image cannot be read."""
        fault = caption_fault(record, self.data)
        if fault is not None:
            raise UserError(fault)
        try:
            return sample_of(record)
        except ImageError as error:
            self.unusable.add(record.place, str(error))
            return None

    def _hint(self) -> str:
        """How to train on the output."""
        if not isinstance(self.data, JsonlDataConfig):
            return f"; train on the same set with data.scores={self.output}"
        folder = image_folder(self.data)
        if folder.absolute() == self.output.parent.absolute():
            return ""
        return f"; its images lie in data.image_dir={folder}"

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def score_set(
    data: ImageDataConfig, name: str, evaluator: Evaluator, output: Path, console: Console
) -> int:
    """Score a set by a judge that proves first that it works.

    Raises:
        UserError: Something in the request, the set or the output cannot be used.
    """
    try:
        evaluator.check_canaries()
        SetScoring(data, name, evaluator, output, console).run()
    except EvaluatorError as error:
        raise UserError(" ".join(str(error).split())) from error
    return 0


def filter_set(
    source: Path, output: Path, thresholds: Mapping[str, float], console: Console
) -> int:
    """Keep the rows whose scores reach the thresholds.

    Raises:
        UserError: The file cannot be read, a row lacks a score, or nothing is left.
    """
    if not source.is_file():
        raise UserError(f"input={source}: no such file")
    if output.exists():
        raise UserError(f"output={output} exists already; choose another output")
    make_writable(output.parent, "output")
    partial = output.with_name(f"{output.name}.partial")
    total = kept = 0
    with partial.open("w", encoding="utf-8") as stream:
        for text in _kept(read_lines(source), thresholds):
            total += 1
            if text is not None:
                kept += 1
                stream.write(f"{text}\n")
    if not kept:
        partial.unlink()
        told = ", ".join(f"{name}>={value:g}" for name, value in thresholds.items())
        raise UserError(f"input={source}: none of {total} rows reach {told}; lower it")
    partial.replace(output)
    console.print(f"kept {kept} of {total} rows: {output}", highlight=False, soft_wrap=True)
    return 0


def _kept(rows: Iterable[tuple[str, Row]], thresholds: Mapping[str, float]) -> Iterator[str | None]:
    """Every row as text, or None where it is left out."""
    for place, row in rows:
        stored = row.get("scores")
        missing = [n for n in thresholds if not isinstance(stored, Mapping) or n not in stored]
        if missing:
            raise UserError(
                f"{place}: no score {missing[0]!r}; add it with `data score judge={missing[0]}`"
            )
        scores = checked_scores(stored, place)
        # A score that is null could not be measured, and is below every threshold.
        is_kept = thresholds.keys() <= scores.keys() and first_below(scores, thresholds) is None
        yield json.dumps(row, ensure_ascii=False) if is_kept else None
