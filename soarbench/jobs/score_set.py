"""``data score``: a judge over a training set, by the same rows and resume as over images."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from evaluators.base import Evaluator, EvaluatorError, JudgeConfig, Sample
from evaluators.images import ImageError
from soarbench.common.errors import UserError
from soarbench.common.files import make_writable, write_atomically
from soarbench.common.judge_errors import of_judge
from soarbench.common.progress import Pace
from soarbench.data.config import ImageDataConfig
from soarbench.data.curation import CHUNK, Unusable, sample_of, score_key
from soarbench.data.forms import JsonlDataConfig
from soarbench.data.records import Record, caption_fault
from soarbench.data.sources.jsonl import line_of, read_lines
from soarbench.data.sources.source import KEY, records_of
from soarbench.evaluation.judging import judge_samples
from soarbench.jobs.score_images import opened
from soarbench.store.artefact import Artefact
from soarbench.store.judged import ScoresFolder


class SetScoring:
    """Scores every row of a set by one judge, and writes the rows with their scores.

    ``OUTPUT.scores``, beside the JSON Lines that are written, keeps what was judged.
    """

    def __init__(
        self, data: ImageDataConfig, judge: str, config: JudgeConfig, output: Path, console: Console
    ) -> None:
        self.data, self.judge, self.config = data, judge, config
        self.output, self.console = output, console
        self.folder = ScoresFolder(output.with_name(f"{output.name}.scores"))
        self.unusable = Unusable(data, output.with_name(f"{output.stem}.unusable.jsonl"))

    def run(self) -> None:
        """Score what is not scored yet."""
        make_writable(self.output.parent, "output")
        contents = {"content": self.data.content, "judge": self.config.identity()}
        # Another split or column of the same files is another set.
        reading = {"reading": self.data.reading} if self.data.reading else {}
        # As JSON gives it back: tuples are lists there.
        content: dict[str, object] = json.loads(json.dumps(contents | reading))
        self._refuse_other(content)
        if self.output.is_file():
            self._say(f"{self.output} is finished; nothing is left to score")
            return
        self._judge(*opened(self.folder, self.config, content, self.data.content))
        write_atomically(self.output, self._write)
        self._say(f"wrote {self.output}{self._hint()}")

    def _refuse_other(self, content: Mapping[str, object]) -> None:
        record = Artefact(self.folder.root).record()
        if record is None and self.output.exists():
            raise UserError(f"output={self.output} exists already; choose another output")
        if record is None or record.content == content:
            return
        if not self.output.exists() and not self.folder.rows.count():
            # Of a set that was refused at a row: corrected, as the message asks, it is another one.
            shutil.rmtree(self.folder.root)
            return
        raise UserError(
            f"output={self.output} holds scores of another set or judge, in {self.folder.root}; "
            "nothing was written over, choose another output"
        )

    def _judge(self, evaluator: Evaluator, protocol: str) -> None:
        self.folder.rows.drop_damaged()
        done = {str(row["sample_id"]) for row in self.folder.rows.read()}
        # A streamed set does not know how many rows it has.
        progress = Pace(f"{self.judge}: scored images", None, self._say)
        if done:
            progress.skip(len(done))
            self._say(f"{self.judge}: {len(done)} rows were scored before")
        chunks = self._chunks(done)
        judge_samples(evaluator, chunks, self.folder.rows, fingerprint=protocol, progress=progress)
        self.folder.rows.finish([])

    def _chunks(self, done: set[str]) -> Iterator[list[Sample]]:
        """The rows that were not judged yet, as the judge sees them."""
        samples = (self._sample(record) for record in records_of(self.data))
        unscored = (sample for sample in samples if sample and sample.sample_id not in done)
        while chunk := list(itertools.islice(unscored, CHUNK)):
            # Hours of judging come after this: a set with too many bad images ends before.
            self.unusable.check()
            yield chunk
        self.unusable.check()

    def _sample(self, record: Record) -> Sample | None:
        """A record as the judge sees it; None, and listed, if its image cannot be read."""
        fault = caption_fault(record, self.data.max_caption_length)
        if fault is not None:
            raise UserError(fault)
        try:
            return sample_of(record)
        except ImageError as error:
            self.unusable.add(record.place, str(error))
            return None

    def _write(self, partial: Path) -> None:
        """Write every row with its score; the output is there only if the set could be used."""
        scores = {str(row["sample_id"]): row for row in self.folder.rows.read()}
        with partial.open("w", encoding="utf-8") as stream:
            for record, row in self._rows():
                value = self._value(record, scores)
                merged = {**row, "scores": dict(record.scores) | {self.judge: value}}
                stream.write(line_of(merged))
        if not partial.stat().st_size:
            partial.unlink()
            raise UserError(f"data.path={self.data.path}: holds no rows")
        self.unusable.check()

    def _value(self, record: Record, scores: Mapping[str, Mapping[str, object]]) -> float | None:
        """A record's score; None where there is none, which is listed."""
        row = scores.get(score_key(record))
        if row is None:
            return None
        value = float(str(row["value"]))
        if math.isnan(value):
            self.unusable.add(record.place, f"{record.place}: {row['reason']}")
            return None
        return value

    def _rows(self) -> Iterator[tuple[Record, Mapping[str, object]]]:
        """Every record and the row that is written for it."""
        if not isinstance(self.data, JsonlDataConfig):
            for record in records_of(self.data):
                yield record, {KEY: record.key, "caption": record.caption}
            return
        # What else the user keeps in a row stays in it. All records, since data.scores leaves out
        # those that it lacks, and the others would no longer match the lines.
        lines = read_lines(self.data.file())
        for record, (_, row) in zip(self.data.own_records(), lines, strict=True):
            yield record, row | {KEY: record.key}

    def _hint(self) -> str:
        """How to train on the output."""
        if not isinstance(self.data, JsonlDataConfig):
            return f"; train on the same set with data.scores={self.output}"
        folder = self.data.image_folder()
        if folder.absolute() == self.output.parent.absolute():
            return ""
        return f"; its images lie in data.image_dir={folder}"

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def score_set(
    data: ImageDataConfig, name: str, config: JudgeConfig, output: Path, console: Console
) -> int:
    """Score a set by a judge that proves first that it works.

    ``UserError`` where something in the request, the set or the output cannot be used.
    """
    try:
        SetScoring(data, name, config, output, console).run()
    except EvaluatorError as error:
        raise UserError(of_judge(error, {name: config})) from error
    return 0
