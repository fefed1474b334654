"""``python -m soarbench score``: judges images of any model that lie on disk.

Rows are appended as they are made, so an interrupted scoring goes on where it was; the row file
gets its final name when every planned row exists.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console

from evaluators.base import Evaluator, EvaluatorError, Sample, Score
from evaluators.geneval.metadata import MetadataError
from evaluators.images import ImageError
from evaluators.samples import CoverageError, SampleFile
from soarbench.common.errors import UserError
from soarbench.common.files import locked, make_writable, read_json, write_json
from soarbench.common.progress import console_pace
from soarbench.evaluation.image_folders import (
    find_images,
    prompts_digest,
    read_prompts,
    suite_named,
)
from soarbench.evaluation.judges import make_judge, refuse_unjudgeable
from soarbench.evaluation.judging import images_at_a_time, scored
from soarbench.evaluation.request import ScoreOptions, ScoreRequest, score_request
from soarbench.evaluation.score_table import summary_table
from soarbench.evaluation.survey import survey

EXIT_UNSCORED = 3
_ROW_KEYS = ("sample_id", "image", "image_sha256", "prompt_id", "prompt", "value", "failure",
             "fingerprint")  # fmt: skip


def score(options: ScoreOptions, words: Sequence[str], *, console: Console) -> int:
    """Score images and print the summary.

    Returns:
        Exit code: 0, or 3 when an image or a judge has no score.

    Raises:
        UserError: Something in the request or the images cannot be used.
    """
    request = score_request(options, words)
    try:
        return _score(request, console)
    except (EvaluatorError, CoverageError, ImageError, MetadataError) as error:
        raise UserError(one_line(error)) from error


def _score(request: ScoreRequest, console: Console) -> int:
    files = planned_files(request)
    found = survey(files)
    if found.note():
        console.print(found.note(), highlight=False, markup=False, soft_wrap=True)
    make_writable(request.output, "output")
    with locked(request.output):
        return score_files(request, files, found.largest, console)


def score_files(
    request: ScoreRequest,
    files: Sequence[SampleFile],
    largest: int,
    console: Console,
    made: Mapping[str, object] | None = None,
) -> int:
    """Have every judge score listed images, and print and store the summary.

    Args:
        request: Its judges and where the results go.
        files: The images.
        largest: Pixels of the largest one.
        console: For progress and the summary.
        made: How the images were made, for the fingerprint; None: nobody knows.

    Returns:
        As ``score``.

    Raises:
        UserError: The output folder holds something else, or no judge could be used.
        EvaluatorError: A judge that the user named cannot be used.
    """
    summaries: dict[str, dict[str, object]] = {}
    skipped: dict[str, str] = {}
    for name, config in request.judges.items():
        judge_run = JudgeRun(request, name, config, files, largest, console, made)
        try:
            summaries[name] = judge_run.run()
        except EvaluatorError as error:
            if request.is_chosen or len(request.judges) == 1:
                raise
            skipped[name] = one_line(error)
            console.print(f"{name}: skipped: {skipped[name]}", highlight=False, markup=False)
        gc.collect()
    if not summaries:
        raise UserError("no judge could be used; run 'python -m soarbench doctor'")
    write_json(request.output / "summary.json", {"judges": summaries, "skipped": skipped})
    for name, summary in summaries.items():
        console.print(summary_table(name, summary))
    console.print(f"wrote {request.output}", highlight=False, markup=False, soft_wrap=True)
    has_gaps = skipped or any(summary["unscored"] for summary in summaries.values())
    return EXIT_UNSCORED if has_gaps else 0


def one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def planned_files(request: ScoreRequest) -> list[SampleFile]:
    """The images of a request, checked in everything but their pixels.

    Raises:
        UserError: A folder or file cannot be used.
        ValueError: An image, a prompt or the coverage is wrong; says which.
    """
    suite = suite_named(request.suite)
    items = None
    if request.prompts is not None:
        items = read_prompts(request.prompts)
    elif suite.prompts is not None and request.coverage == "exact":
        items = list(suite.prompts())
    count = request.images_per_prompt
    if count is None and request.coverage == "exact" and request.prompts is None:
        count = suite.images_per_prompt
    files = find_images(request.images, items, count)
    refuse_unjudgeable(request.judges, ((f.sample_id, f.prompt, f.metadata) for f in files))
    return files


class JudgeRun:
    """One judge over all images; knows what an earlier launch left.

    Args:
        request: What is asked for.
        name: The judge.
        config: Its configuration.
        files: The images.
        largest: Pixels of the largest one.
        console: Where progress goes.
        made: See ``score_files``.
    """

    def __init__(
        self,
        request: ScoreRequest,
        name: str,
        config: object,
        files: Sequence[SampleFile],
        largest: int,
        console: Console,
        made: Mapping[str, object] | None = None,
    ) -> None:
        self.name, self.config, self.files, self.console = name, config, files, console
        self.made, self.at_a_time = made, images_at_a_time(largest)
        self.rows_path = request.output / f"{name}.jsonl"
        self.partial_path = request.output / f"{name}.partial.jsonl"
        self.plan_path = request.output / f"{name}.plan.json"
        self.summary_path = request.output / f"{name}.summary.json"
        names = [(file.sample_id, file.prompt_id, file.prompt) for file in files]
        self.plan: dict[str, object] = {
            "suite": request.suite,
            "coverage": request.coverage,
            "images": str(request.images.resolve()),
            "planned_images": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
            "judge": _config_values(config),
            "prompts": prompts_digest(files) if made is None else made["prompts"],
        }

    def run(self) -> dict[str, object]:
        """Score what is not scored yet. -> The summary, as stored.

        Raises:
            UserError: The output folder holds something else.
            EvaluatorError: The judge cannot be used here.
        """
        self._refuse_others(self.plan)
        if self.summary_path.is_file() and self.rows_path.is_file():
            self._check_unchanged(_read_rows(self.rows_path))
            return read_json(self.summary_path)
        evaluator = make_judge(self.name, self.config)
        evaluator.check_canaries()
        facts = self._facts(evaluator)
        self._refuse_others({**self.plan, **facts})
        write_json(self.plan_path, {**self.plan, **facts})
        rows = self._done_rows()
        rows += self._score(evaluator, len(rows), str(facts["fingerprint"]))
        summary = self._summary(evaluator, rows, facts)
        if self.partial_path.is_file():
            self.partial_path.replace(self.rows_path)
        write_json(self.summary_path, summary)
        return summary

    def _refuse_others(self, wanted: Mapping[str, object]) -> None:
        if not self.plan_path.is_file():
            if self.rows_path.exists() or self.partial_path.exists():
                raise UserError(f"{self.rows_path.parent} holds other files; choose another output")
            return
        found = read_json(self.plan_path)
        unlike = [key for key, value in wanted.items() if found.get(key) != _as_json(value)]
        if unlike:
            raise UserError(
                f"{self.plan_path.parent} holds scores of another request (unlike in "
                f"{', '.join(unlike)}); nothing was written over, choose another output"
            )

    def _facts(self, evaluator: Evaluator) -> dict[str, object]:
        """What makes the numbers comparable."""
        from soarbench.evaluation.protocol import fingerprint, judge_facts

        unknown = {"prompts": self.plan["prompts"], "num_images": len(self.files)}
        facts = {**(unknown if self.made is None else self.made), **judge_facts(evaluator)}
        return {**facts, "fingerprint": fingerprint(facts)}

    def _done_rows(self) -> list[dict[str, object]]:
        """Whole rows of an earlier launch; a torn last line is cut off."""
        source = self.rows_path if self.rows_path.is_file() else self.partial_path
        if not source.is_file():
            return []
        content = source.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with source.open("r+b") as stream:
                stream.truncate(whole)
        rows = _read_rows(source)
        self._check_unchanged(rows)
        return rows

    def _check_unchanged(self, rows: Sequence[Mapping[str, object]]) -> None:
        for row, file in zip(rows, self.files, strict=False):
            if row["sample_id"] != file.sample_id or row["image_sha256"] != _sha256(file.path):
                raise UserError(
                    f"image {file.path} is not the one that was scored into "
                    f"{self.rows_path.parent}; choose another output"
                )

    def _score(
        self, evaluator: Evaluator, num_done: int, fingerprint: str
    ) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        progress = console_pace(self.console, self.name, len(self.files))
        if num_done:
            progress.skip(num_done)
            text = f"{self.name}: {num_done} of {len(self.files)} images were scored before"
            self.console.print(text, highlight=False)
        with self.partial_path.open("a") as stream:
            for files, scores in scored(evaluator, self.files[num_done:], self.at_a_time):
                pairs = zip(files, scores, strict=True)
                new = [_row(file, score, fingerprint) for file, score in pairs]
                stream.write("".join(f"{json.dumps(row)}\n" for row in new))
                stream.flush()
                rows += new
                progress.advance(len(new))
        return rows

    def _summary(
        self,
        evaluator: Evaluator,
        rows: Sequence[Mapping[str, object]],
        facts: Mapping[str, object],
    ) -> dict[str, object]:
        blank = Image.new("RGB", (1, 1))
        samples: list[Sample] = [file.with_image(blank) for file in self.files]
        numbers = evaluator.aggregate(samples, [_as_score(row) for row in rows])
        return {
            "evaluator": evaluator.name,
            "unit": evaluator.unit,
            "value_range": list(evaluator.value_range),
            "higher_is_better": evaluator.higher_is_better,
            "num_images": len(rows),
            "num_prompts": len({file.prompt_id for file in self.files}),
            "unscored": sum(row["failure"] is not None for row in rows),
            "numbers": {k: v if math.isfinite(v) else None for k, v in numbers.items()},
            "suite": self.plan["suite"],
            "coverage": self.plan["coverage"],
            "protocol": dict(facts),
        }


def _config_values(config: object) -> dict[str, object]:
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return {}
    return dataclasses.asdict(config)


def _as_json(value: object) -> object:
    plain: object = json.loads(json.dumps(value))
    return plain


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _row(file: SampleFile, score: Score, fingerprint: str) -> dict[str, object]:
    return {
        "sample_id": file.sample_id,
        "image": str(file.path),
        "image_sha256": _sha256(file.path),
        "prompt_id": file.prompt_id,
        "prompt": file.prompt,
        "value": None if score.reason is not None else float(score.value),
        "failure": score.reason,
        **score.details,
        "fingerprint": fingerprint,
    }


def _as_score(row: Mapping[str, object]) -> Score:
    name, failure, value = str(row["sample_id"]), row["failure"], row["value"]
    if failure is not None:
        return Score.unscored(name, str(failure))
    assert isinstance(value, (int, float))
    details = {key: entry for key, entry in row.items() if key not in _ROW_KEYS}
    return Score(sample_id=name, value=float(value), details=details)
