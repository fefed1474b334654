"""Judges over images of anybody's: the same rows, resume and protocol as in a run."""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from evaluators.base import EvaluatorError, JudgeConfig
from evaluators.samples import SampleFile
from soarbench.common.code import code_of, digests
from soarbench.common.errors import UserError
from soarbench.common.files import write_json
from soarbench.common.progress import console_pace
from soarbench.evaluation.judging import aggregated, judge_files
from soarbench.evaluation.protocol import fingerprint, judge_facts
from soarbench.evaluation.request import ScoreRequest
from soarbench.evaluation.score_table import summary_table
from soarbench.store.artefact import Artefact, Extent
from soarbench.store.judged import ScoresFolder

EXIT_UNSCORED = 3


@dataclass(frozen=True, kw_only=True)
class JudgedImages:
    """Images that others made, to be judged.

    Attributes:
        request: The judges and where the results go.
        files: The images.
        largest: Pixels of the largest one.
        prompts: Digest of the prompts.
    """

    request: ScoreRequest
    files: Sequence[SampleFile]
    largest: int
    prompts: str


def score_all(images: JudgedImages, console: Console) -> int:
    """Have every judge score the images, and print and store the summaries.

    Returns:
        0, or 3 when an image or a judge has no score.

    Raises:
        UserError: The output folder holds something else, or no judge could be used.
        EvaluatorError: A judge that the user named cannot be used.
    """
    request = images.request
    summaries: dict[str, Mapping[str, object]] = {}
    skipped: dict[str, str] = {}
    for name, config in request.judges.items():
        try:
            summaries[name] = score_by(name, config, images, console)
        except EvaluatorError as error:
            if request.is_chosen or len(request.judges) == 1:
                raise
            skipped[name] = one_line(error)
            console.print(f"{name}: skipped: {skipped[name]}", highlight=False, markup=False)
        gc.collect()
    return show_summaries(request.output, summaries, skipped, console)


def show_summaries(
    output: Path,
    summaries: Mapping[str, Mapping[str, object]],
    skipped: Mapping[str, str],
    console: Console,
) -> int:
    """Store and print what judges came to.

    Args:
        output: Where ``summary.json`` goes, which ``compare`` reads.
        summaries: By judge.
        skipped: Judges that could not be used, and why.
        console: Where the tables go.

    Returns:
        As ``score_all``.

    Raises:
        UserError: No judge could be used.
    """
    if not summaries:
        raise UserError("no judge could be used; run 'python -m soarbench doctor'")
    write_json(output / "summary.json", {"judges": summaries, "skipped": skipped})
    for name, summary in summaries.items():
        console.print(summary_table(name, summary))
    console.print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
    has_gaps = skipped or any(summary["unscored"] for summary in summaries.values())
    return EXIT_UNSCORED if has_gaps else 0


def one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def score_by(
    name: str, config: JudgeConfig, images: JudgedImages, console: Console
) -> dict[str, object]:
    """Have one judge score what it did not score before. -> Its summary.

    Raises:
        UserError: The output folder holds something else.
        EvaluatorError: The judge cannot be used here.
    """
    folder = ScoresFolder(images.request.output / name)
    artefact = Artefact(folder.root)
    content = artefact.refuse_other(_content(config, images), "scores")
    sha256 = {file.sample_id: _sha256(file.path) for file in images.files}
    _refuse_changed(folder, images.files, sha256)
    evaluator = config.build()
    evaluator.check_canaries()
    artefact.begin(content, (), digests(code_of(config)))
    facts = {"prompts": images.prompts, **judge_facts(evaluator)}
    folder.write_protocol(facts, config.facts())
    progress = console_pace(console, name, len(images.files))
    judge_files(
        evaluator,
        images.files,
        folder.rows,
        fingerprint=fingerprint(facts),
        largest=images.largest,
        progress=progress,
        sha256=sha256,
    )
    numbers = aggregated(evaluator, images.files, folder.rows)
    folder.write_summary(_WHOLE, numbers, [])
    return summary_of(
        config,
        suite=images.request.suite.name,
        num_prompts=len({file.prompt_id for file in images.files}),
        num_images=len(images.files),
        coverage=images.request.coverage,
        numbers=numbers,
        scores=name,
        extent=None,
    )


#: Of a folder all images are judged, however many a prompt has.
_WHOLE = Extent(max_prompts=None, images_per_prompt=0)


def _content(config: JudgeConfig, images: JudgedImages) -> dict[str, object]:
    """What another launch with this output must want, too."""
    names = [(file.sample_id, file.prompt_id, file.prompt) for file in images.files]
    return {
        "suite": images.request.suite.name,
        "coverage": images.request.coverage,
        "prompts": images.prompts,
        "images": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "judge": config.identity(),
    }


def _refuse_changed(
    folder: ScoresFolder, files: Sequence[SampleFile], sha256: Mapping[str, str]
) -> None:
    paths = {file.sample_id: file.path for file in files}
    for row in folder.rows.read():
        name = str(row["sample_id"])
        if sha256.get(name) != row["image_sha256"]:
            raise UserError(
                f"image {paths.get(name, name)} is not the one that was scored into "
                f"{folder.root}; choose another output"
            )


def summary_of(
    config: JudgeConfig,
    *,
    suite: str,
    num_prompts: int,
    num_images: int,
    coverage: str,
    numbers: Mapping[str, float],
    scores: str,
    extent: Extent | None,
) -> dict[str, object]:
    """A judge's numbers with what describes them, as JSON values.

    Args:
        config: The judge.
        suite: Whose prompts.
        num_prompts: Judged.
        num_images: Judged.
        coverage: ``exact`` or ``found``.
        numbers: The judge's own summary.
        scores: Where the rows are, seen from the output folder.
        extent: Which of these rows; None: all.
    """
    return {
        **config.facts(),
        "judge": config.kind,
        "suite": suite,
        "num_prompts": num_prompts,
        "num_images": num_images,
        "coverage": coverage,
        "unscored": int(numbers.get("unscored", 0)),
        "numbers": {k: v if math.isfinite(v) else None for k, v in numbers.items()},
        "scores": scores,
        "extent": None if extent is None else vars(extent),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
