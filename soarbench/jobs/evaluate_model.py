"""``python -m soarbench evaluate``: a model draws a suite's prompts, and the judges score them.

Images lie in GenEval's folders under ``OUTPUT/images``, which ``score`` reads too. Rows and summary
are those of ``score``; the fingerprint is that of ``run``: it is known how the images were made.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from evaluators.base import EvaluatorError
from evaluators.geneval.metadata import MetadataError
from evaluators.images import ImageError
from evaluators.samples import CoverageError
from soarbench.common.errors import ConfigError, UserError
from soarbench.common.files import locked, make_writable, read_json, write_atomically, write_json
from soarbench.common.progress import console_pace
from soarbench.config.compose import options, run_settings
from soarbench.config.settings import BASE, CellConfig, Settings, SuiteConfig
from soarbench.evaluation.image_folders import find_images, suite_named
from soarbench.evaluation.judges import make_judge, refuse_unjudgeable
from soarbench.evaluation.request import EvaluateOptions, ScoreRequest
from soarbench.evaluation.score_folder import one_line, score_files
from soarbench.evaluation.suites import FROM_FILE, PromptItem
from soarbench.evaluation.survey import survey
from soarbench.models.adapters import adapter_name
from soarbench.models.base import ModelConfig, UnknownArchitecture
from soarbench.models.hub import is_directory
from soarbench.models.sd3.architecture import KNOWN
from soarbench.store.cell_folder import CellFolder

if TYPE_CHECKING:
    from soarbench.jobs.workbench import Workbench

#: Whose resolution, steps and guidance a directory or hub id takes.
_LIKE = "sd35_medium"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the command line asks for.

    Attributes:
        cell: The model, its sampling and the suite, as ``run`` has them for a base model.
        device: Where the model runs.
        scoring: The judges, and where everything goes.
    """

    cell: CellConfig
    device: str
    scoring: ScoreRequest

    @property
    def suite(self) -> SuiteConfig:
        """The only suite."""
        return self.cell.suites[self.scoring.suite]


def read_evaluation(options: EvaluateOptions, words: Sequence[str]) -> Evaluation:
    """What is drawn and judged; loads no model.

    Raises:
        UserError: What is named cannot be used.
    """
    name, judges = options.suite, options.judges()
    suite = _suite(options)
    settings = run_settings([*model_words(options.model), "data=lab_general", *words])
    _check_resolution(settings.model)
    cell = _cell(settings, suite)
    output = options.output or Path("runs/evaluations") / name / _label(settings.model)
    scoring = ScoreRequest(
        suite=name,
        images=output / "images",
        output=output,
        prompts=options.choice.prompts,
        images_per_prompt=suite.images_per_prompt,
        coverage="exact",
        judges=judges,
        is_chosen=bool(options.choice.judges),
    )
    return Evaluation(cell=cell, device=settings.device, scoring=scoring)


def model_words(value: str) -> list[str]:
    """The overrides that choose a model: a configuration's name, a directory, or a hub id.

    Raises:
        ConfigError: It is none of these.
    """
    names = options("model")
    if value in names:
        return [f"model={value}"]
    if value in KNOWN:
        return [f"model={KNOWN[value]}"]
    repo, _, revision = value.partition("@")
    is_local = is_directory(value)
    if not is_local and repo.count("/") != 1:
        raise ConfigError(
            f"model={value!r} is neither one of {', '.join(names)}, nor a directory, nor a hub id "
            "(owner/name)"
        )
    path = value if is_local else repo
    words = [f"model={_LIKE}", f"model.path={_quoted(path)}", f"model.name={_quoted(_last(path))}"]
    wanted = _quoted(revision) if revision and not is_local else "null"
    words.append(f"model.revision={wanted}")
    if is_local and not _has_t5(Path(value).expanduser()):
        words += ["model.load_text_encoder_3=false", "model.max_sequence_length=0"]
    return words


def _has_t5(folder: Path) -> bool:
    """Whether a saved pipeline has a third text encoder."""
    index = folder / "model_index.json"
    parts = read_json(index) if index.is_file() else {}
    return parts.get("text_encoder_3") not in (None, [None, None])


def _quoted(text: str) -> str:
    """A text in Hydra's grammar."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _last(path: str) -> str:
    return adapter_name(str(Path(path).expanduser().resolve()) if is_directory(path) else path)


def _label(model: ModelConfig) -> str:
    """Names the output folder."""
    return model.name if model.adapter is None else f"{model.name}+{adapter_name(model.adapter)}"


def _suite(options: EvaluateOptions) -> SuiteConfig:
    name, choice = options.suite, options.choice
    prompts = choice.prompts
    if name in FROM_FILE and prompts is None:
        raise UserError(
            f"suite {name!r} has no prompts of its own: add suites.{name}.prompts=FILE, one prompt "
            f"a line or JSON Lines (the published file holds {FROM_FILE[name]} different ones)"
        )
    if prompts is not None and name not in FROM_FILE:
        raise ConfigError(
            f"suites.{name}.prompts={prompts}: the suite has prompts of its own; leave it out"
        )
    if prompts is not None and not prompts.is_file():
        raise UserError(f"suites.{name}.prompts={prompts}: no such file")
    digest = None if prompts is None else hashlib.sha256(prompts.read_bytes()).hexdigest()
    return SuiteConfig(
        name=name,
        # Not part of what is drawn: images may be judged again by others.
        evaluators=(),
        images_per_prompt=choice.images_per_prompt or suite_named(name).images_per_prompt or 1,
        max_prompts=choice.max_prompts,
        prompts=None if prompts is None else str(prompts.resolve()),
        prompts_sha256=digest,
    )


def _check_resolution(model: ModelConfig) -> None:
    """Refuse images larger than the positions that a local transformer knows.

    Raises:
        ConfigError: Names the largest resolution.
    """
    try:
        largest = model.architecture().largest_image
    except UnknownArchitecture:
        return
    if model.resolution > largest:
        raise ConfigError(
            f"model.resolution={model.resolution}: {model.path} draws at most {largest} pixels; "
            f"say model.resolution={largest}, or the one that it was trained at"
        )


def _cell(settings: Settings, suite: SuiteConfig) -> CellConfig:
    model = settings.model
    return CellConfig(
        grid="evaluate",
        method_name=BASE if model.adapter is None else adapter_name(model.adapter),
        task=None,
        seed=0,
        method=None,
        optim=None,
        lora=None,
        ema=None,
        training=None,
        data=None,
        rewards={},
        suites={suite.name: suite},
        model=model,
        sampling=settings.sampling,
        evaluators={},
        weights_digest=model.weights_digest(),
    )


def evaluate(options: EvaluateOptions, words: Sequence[str], *, console: Console) -> int:
    """Draw a suite's images with a model, score them and print the summary.

    Returns:
        Exit code: 0, or 3 when an image or a judge has no score.

    Raises:
        UserError: Something in the request, the model or a judge cannot be used.
    """
    request = read_evaluation(options, words)
    try:
        return _evaluate(request, console)
    except (EvaluatorError, CoverageError, ImageError, MetadataError) as error:
        raise UserError(one_line(error)) from error


def _evaluate(request: Evaluation, console: Console) -> int:
    from soarbench.evaluation.protocol import planned_suite

    items = planned_suite(request.suite).items
    wishes = ((item.prompt_id, item.prompt, item.metadata) for item in items)
    refuse_unjudgeable(request.scoring.judges, wishes)
    output, count = request.scoring.output, request.suite.images_per_prompt
    make_writable(output, "output")
    with locked(output):
        _refuse_others(request)
        made = _draw(request, items, console)
        files = find_images(request.scoring.images, items, count)
        return score_files(request.scoring, files, survey(files).largest, console, made)


def _refuse_others(request: Evaluation) -> None:
    """Keep the images of another request."""
    path = request.scoring.output / "evaluation.json"
    content = request.cell.content()
    if not path.is_file():
        if request.scoring.images.exists():
            raise UserError(f"{path.parent} holds other images; choose another output")
        return
    found = read_json(path)["request"]
    assert isinstance(found, Mapping)
    unlike = [key for key, value in content.items() if found.get(key) != value]
    if unlike:
        raise UserError(
            f"{path.parent} holds images of another request (unlike in {', '.join(unlike)}); "
            "nothing was written over, choose another output"
        )


def _draw(
    request: Evaluation, items: Sequence[PromptItem], console: Console
) -> Mapping[str, object]:
    """Draw the images that are missing. -> How they were made, for the fingerprint."""
    from soarbench.evaluation.protocol import planned_images
    from soarbench.jobs.draw import draw_missing

    output, images = request.scoring.output, request.scoring.images
    count = request.suite.images_per_prompt
    paths = [
        images / f"{number:05d}" / "samples" / f"{index:04d}.png"
        for number in range(len(items))
        for index in range(count)
    ]
    if not all(path.is_file() for path in paths):
        bench = _loading(request, console)
        drawer = bench.drawer(request.cell, CellFolder(output), 0)
        facts = _facts(request, bench.scheduler_facts(request.cell))
        stored = {"request": request.cell.content(), "made": facts}
        write_json(output / "evaluation.json", stored)
        _write_metadata(images, items)
        size = request.cell.sampling.batch_size
        progress = console_pace(console, "drawing", len(paths))
        draw_missing(planned_images(request.suite), paths, size, lambda: drawer, progress)
        del bench, drawer
        gc.collect()
    made = read_json(output / "evaluation.json")["made"]
    assert isinstance(made, Mapping)
    return made


def _loading(request: Evaluation, console: Console) -> Workbench:
    """Try everything that comes after the drawing, so that faults show before it."""
    model = request.cell.model
    model.check_source()
    _try_judges(request.scoring, console)
    from soarbench.jobs.workbench import Workbench

    return Workbench(request.device, request.scoring.output)


def _try_judges(scoring: ScoreRequest, console: Console) -> None:
    """Load each judge and score its canaries, one after the other.

    Raises:
        EvaluatorError: A judge that the user named cannot be used.
        UserError: None can.
    """
    num_usable = 0
    for name, config in scoring.judges.items():
        try:
            make_judge(name, config).check_canaries()
            num_usable += 1
        except EvaluatorError as error:
            if scoring.is_chosen or len(scoring.judges) == 1:
                raise
            text = f"{name}: will be skipped: {one_line(error)}"
            console.print(text, highlight=False, markup=False)
        gc.collect()
    if not num_usable:
        raise UserError("no judge could be used; run 'python -m soarbench doctor'")


def _facts(request: Evaluation, scheduler: Mapping[str, object]) -> dict[str, object]:
    from soarbench.evaluation.protocol import image_facts

    return image_facts(request.cell, request.suite, scheduler)


def _write_metadata(images: Path, items: Sequence[PromptItem]) -> None:
    """GenEval's entry of every prompt, beside its samples."""
    for number, item in enumerate(items):
        text = json.dumps({**item.metadata, "prompt": item.prompt}) + "\n"
        path = images / f"{number:05d}" / "metadata.jsonl"
        write_atomically(path, functools.partial(_write_text, text))


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
