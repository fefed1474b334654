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
from rich.markup import escape
from rich.table import Table

from evaluators.base import Evaluator, EvaluatorError, JudgeConfig
from evaluators.samples import SampleFile
from soarbench.common.code import code_of, digests
from soarbench.common.errors import UserError
from soarbench.common.files import write_json
from soarbench.common.progress import console_pace
from soarbench.evaluation.judging import judge_files, summed_up
from soarbench.evaluation.protocol import fingerprint, judge_facts
from soarbench.evaluation.request import ScoreRequest
from soarbench.store.artefact import Artefact, Extent
from soarbench.store.judged import ScoresFolder

EXIT_UNSCORED = 3
#: Of a folder all images are judged, however many a prompt has.
_WHOLE = Extent(max_prompts=None, images_per_prompt=0)


@dataclass(frozen=True, kw_only=True)
class JudgedImages:
    """Images that others made, to be judged.

    Attributes:
        largest: Pixels of the largest one.
        prompts: Digest of the prompts.
    """

    request: ScoreRequest
    files: Sequence[SampleFile]
    largest: int
    prompts: str


def score_all(images: JudgedImages, console: Console) -> int:
    """Have every judge score the images. -> 0, or 3 when an image or a judge has no score.

    ``UserError`` where the output holds something else or no judge could be used, and
    ``EvaluatorError`` where one that the user named cannot be.
    """
    request = images.request
    summaries: dict[str, Mapping[str, object]] = {}
    skipped: dict[str, str] = {}
    for name, config in request.judges.items():
        try:
            summaries[name] = score_by(name, config, images, console)
        except EvaluatorError as error:
            # One missing library or file of weights must not stop the suite's other judges.
            if request.is_chosen or len(request.judges) == 1:
                raise
            skipped[name] = one_line(error)
            console.print(f"{name}: skipped: {skipped[name]}", highlight=False, markup=False)
        # Judges follow each other on one GPU; the last one's weights may hang in a circle.
        gc.collect()
    return show_summaries(request.output, summaries, skipped, console)


def show_summaries(
    output: Path,
    summaries: Mapping[str, Mapping[str, object]],
    skipped: Mapping[str, str],
    console: Console,
) -> int:
    """Store and print what judges came to. -> 0, or 3 when an image or a judge has no score.

    ``skipped`` says why judges could not be used; ``UserError`` where none could.
    """
    # Here, since intervals load scipy, for which a mistyped word does not wait.
    from soarbench.report.numbers.headline import COVERS, headline

    if not summaries:
        raise UserError("no judge could be used; run 'python -m soarbench doctor'")
    summaries = {
        name: {**summary, "interval": headline(output, name, summary)}
        for name, summary in summaries.items()
    }
    write_json(output / "summary.json", {"judges": summaries, "skipped": skipped})
    for name, summary in summaries.items():
        console.print(_summary_table(name, summary))
    console.print(f"95 %: for {COVERS}", highlight=False, markup=False)
    console.print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
    has_gaps = skipped or any(summary["unscored"] for summary in summaries.values())
    return EXIT_UNSCORED if has_gaps else 0


def one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def opened(
    folder: ScoresFolder, config: JudgeConfig, content: Mapping[str, object], prompts: str | None
) -> tuple[Evaluator, str]:
    """A judge that has proved that it works, and the fingerprint of its protocol.

    The folder keeps both, and the ``content`` of the request, as JSON gives it back.
    ``EvaluatorError`` where the judge cannot be used here.
    """
    evaluator = config.build()
    # Before a row is written: a detector with a wrong configuration gave GenEval 0.03, no error.
    evaluator.check_canaries()
    Artefact(folder.root).begin(content, (), digests(code_of(config)))
    facts = {"prompts": prompts, **judge_facts(evaluator)}
    folder.write_protocol(facts, config.facts())
    return evaluator, fingerprint(facts)


def score_by(
    name: str, config: JudgeConfig, images: JudgedImages, console: Console
) -> dict[str, object]:
    """Have one judge score what it did not score before. -> Its summary."""
    request, files = images.request, images.files
    folder = ScoresFolder(request.output / name)
    names = [(file.sample_id, file.prompt_id, file.prompt) for file in files]
    # What another launch with this output must want, too.
    stated = {
        "suite": request.suite.name,
        "coverage": request.coverage,
        "prompts": images.prompts,
        "images": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "judge": config.identity(),
    }
    content = Artefact(folder.root).refuse_other(stated, "scores")
    folder.rows.drop_damaged()
    sha256 = {file.sample_id: _sha256(file.path) for file in files}
    _refuse_changed(folder, files, sha256)
    evaluator, protocol = opened(folder, config, content, images.prompts)
    judge_files(
        evaluator,
        files,
        folder.rows,
        fingerprint=protocol,
        largest=images.largest,
        progress=console_pace(console, name, len(files)),
        sha256=sha256,
    )
    numbers = summed_up(evaluator, files, folder.rows)
    folder.write_summary(_WHOLE, numbers, [])
    return summary_of(
        config,
        suite=request.suite.name,
        num_prompts=len({file.prompt_id for file in files}),
        num_images=len(files),
        coverage=request.coverage,
        numbers=numbers,
        scores=name,
        extent=None,
    )


def _refuse_changed(
    folder: ScoresFolder, files: Sequence[SampleFile], sha256: Mapping[str, str]
) -> None:
    # Under the same names other images may lie by now, whose scores would mix with the old ones.
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
    """A judge's own ``numbers`` with what describes them, as JSON values, for ``compare``.

    ``scores`` is where the rows are, seen from the output folder; ``extent`` which of them, None
    for all.
    """
    return {
        **config.facts(),
        "judge": config.kind,
        "suite": suite,
        "num_prompts": num_prompts,
        "num_images": num_images,
        "coverage": coverage,
        "unscored": int(numbers.get("unscored", 0)),
        # JSON knows no nan.
        "numbers": {k: v if math.isfinite(v) else None for k, v in numbers.items()},
        "scores": scores,
        "extent": None if extent is None else vars(extent),
    }


def _summary_table(name: str, summary: Mapping[str, object]) -> Table:
    """A judge's numbers for people, each with its unit and scale."""
    units, numbers, ends = summary["units"], summary["numbers"], summary["value_range"]
    assert isinstance(units, Mapping)
    assert isinstance(numbers, Mapping)
    assert isinstance(ends, (list, tuple))
    low, high = (float(end) for end in ends)
    own, scale = str(summary["unit"]), f"{low:g}..{high:g}"
    # The same PickScore is 22.3 in papers, 0.86 in training code and 0.226 as a cosine.
    if math.isfinite(high - low) and scale not in own:
        own = f"{own}, {scale}"
    sure = summary["interval"]
    assert isinstance(sure, Mapping)
    table = Table(title=f"{name}: {summary['num_images']} images, {summary['num_prompts']} prompts")
    for heading in ("measure", "value", "95 %", "unit and scale"):
        table.add_column(heading, justify="left" if heading[0] in "mu" else "right")
    for key, value in numbers.items():
        if key == "unscored":
            table.add_row(key, f"{value:.0f}", "", "images without a score")
            continue
        unit = str(units.get(key, own))
        # A share in percent is read with one digit, any other number with four.
        factor, digits = (100, 1) if unit.startswith("%") else (1, 4)
        text = "-" if value is None else f"{factor * value:.{digits}f}"
        ends = [f"{factor * sure[end]:.{digits}f}" for end in ("low", "high") if end in sure]
        is_first = key == sure["measure"]
        table.add_row(key, text, escape(f"[{', '.join(ends)}]") if ends and is_first else "", unit)
    if "problem" in sure:
        table.caption = escape(f"{sure['measure']}: {sure['problem']}")
    return table


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
