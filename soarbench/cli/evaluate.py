"""``evaluate``: a model draws a suite's prompts, and the judges score them, as ``run`` does it."""

from __future__ import annotations

import dataclasses
import filecmp
import functools
import gc
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from evaluators.base import EvaluatorError, JudgeConfig
from soarbench.cli.score import judges_complain_in_one_line
from soarbench.common.errors import ConfigError, UserError
from soarbench.common.files import locked, make_writable, read_json, write_atomically
from soarbench.common.imports import large_imports
from soarbench.common.judge_errors import of_judge
from soarbench.common.progress import GridProgress
from soarbench.config.compose import run_settings
from soarbench.config.folders import Folders, options, search_path
from soarbench.config.keys import split
from soarbench.config.registries import suite_named
from soarbench.config.settings import Settings, SuiteConfig
from soarbench.config.stages import BASE
from soarbench.data.prompts import PromptItem
from soarbench.evaluation.drawing import image_path
from soarbench.evaluation.judging import refuse_unjudgeable
from soarbench.evaluation.request import EvaluateOptions, ScoreRequest, SuiteChoice
from soarbench.evaluation.selection import num_images, suite_prompts
from soarbench.evaluation.suites import PromptFile
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.checks import check_device, check_model, require_device
from soarbench.grid.expand import with_digest
from soarbench.jobs.base import Context, Job, extent_of
from soarbench.jobs.draw import Draw
from soarbench.jobs.judge import Judge
from soarbench.jobs.repair import run_repaired
from soarbench.jobs.score_images import show_summaries, summary_of
from soarbench.models.adapters import adapter_name
from soarbench.models.families import KNOWN, like
from soarbench.models.hub import is_directory
from soarbench.store.artefact import Artefact, Store
from soarbench.store.judged import ScoresFolder


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the command line asks for; the cell is as ``run`` has it for a base model."""

    cell: CellConfig
    store: Store
    device: str
    scoring: ScoreRequest


def read_evaluation(options: EvaluateOptions, words: Sequence[str]) -> Evaluation:
    """What is drawn and judged; loads no model, and refuses what cannot be used."""
    judges, folders = options.judges(words), search_path(words)
    suite = _suite(suite_named(options.suite, folders), options.choice)
    suite = dataclasses.replace(suite, judges=tuple(judges))
    settings = run_settings(run_words(options, words))
    check_device(settings.device)
    check_model(settings)
    cell = _cell(settings, suite, judges)
    label = settings.model.name
    if settings.model.adapter is not None:
        label += f"+{adapter_name(settings.model.adapter)}"
    output = options.output or Path("runs/evaluations") / suite.name / label
    scoring = ScoreRequest(
        suite=suite,
        images=output / "images",
        output=output,
        prompts=options.choice.prompts,
        images_per_prompt=suite.images_per_prompt,
        coverage="exact",
        judges=judges,
        is_chosen=bool(options.choice.judges),
    )
    store = Store(Path(settings.output_dir).expanduser())
    return Evaluation(cell=cell, store=store, device=settings.device, scoring=scoring)


def run_words(options: EvaluateOptions, words: Sequence[str]) -> list[str]:
    """The settings of a run that the model is drawn with."""
    folders = search_path(words)
    model = options.model or suite_named(options.suite, folders).judges_of
    # The suite's judges are those of the model that they judge best, not of this one.
    own = [word for word in words if not split(word).key.startswith("judge.")]
    return [*model_words(model, folders), *own]


def model_words(value: str, folders: Folders | None = None) -> list[str]:
    """The overrides that choose a model: a configuration's name, a directory, or a hub id."""
    names = options("model", folders)
    if value in names:
        return [f"model={value}"]
    # A hub id that a configuration is of has that one's recipe, revision and limits.
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
    name = adapter_name(str(Path(value).expanduser().resolve()) if is_local else repo)
    files = ("model_index.json", "scheduler/scheduler_config.json")
    places = (Path(value).expanduser() / file for file in files)
    parts, scheduler = (
        read_json(place) if is_local and place.is_file() else {} for place in places
    )
    settings = like(parts, scheduler)
    words = [f"model={settings}", f"model.path={_quoted(path)}", f"model.name={_quoted(name)}"]
    # Not that of the model whose settings are taken: it is a commit of another repository.
    quoted = _quoted(revision) if revision and not is_local else "null"
    words.append(f"model.revision={quoted}")
    # How diffusers saves a pipeline that was made without T5.
    is_without = settings == "sd35_medium" and parts.get("text_encoder_3") in (None, [None, None])
    if is_local and is_without:
        words += ["model.load_text_encoder_3=false", "model.max_sequence_length=0"]
    return words


def _quoted(text: str) -> str:
    """A text in Hydra's grammar."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _suite(suite: SuiteConfig, choice: SuiteChoice) -> SuiteConfig:
    """The suite with the prompts and sizes of the command line."""
    if choice.prompts is not None:
        if not isinstance(suite, PromptFile):
            raise ConfigError(
                f"suites.{suite.name}.prompts={choice.prompts}: the suite has prompts of its own; "
                "leave it out"
            )
        suite = with_digest(dataclasses.replace(suite, prompts=str(choice.prompts.resolve())))
    suite.items()  # Says what to do where they are missing.
    return dataclasses.replace(
        suite,
        images_per_prompt=choice.images_per_prompt or suite.published_images or 1,
        max_prompts=choice.max_prompts,
    )


def _cell(settings: Settings, suite: SuiteConfig, judges: Mapping[str, JudgeConfig]) -> CellConfig:
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
        judges=judges,
        weights_digest=model.weights_digest(),
    )


@judges_complain_in_one_line()
def evaluate(options: EvaluateOptions, words: Sequence[str], *, console: Console) -> int:
    """Draw a suite, score it and print the summary. -> 3 when an image or a judge has no score."""
    request = read_evaluation(options, words)
    cell, suite, output = request.cell, request.scoring.suite, request.scoring.output
    items = suite_prompts(suite).items
    require_device(request.device)
    # Before a model is loaded, which may take minutes.
    wishes = ((item.prompt_id, item.prompt, item.metadata) for item in items)
    refuse_unjudgeable(request.scoring.judges.values(), wishes)
    make_writable(output, "output")
    make_writable(request.store.root, "output_dir")
    with locked(output):
        drawing = Draw(cell=cell, step=0, suite=suite)
        judging = [Judge(cell=cell, step=0, suite=suite, judge=name) for name in suite.judges]
        skipped = _skipped(request, judging, console)
        judging = [job for job in judging if job.judge not in skipped]
        # An earlier launch with this output must have shown the same images.
        shown = Artefact(request.scoring.images)
        content = {**drawing.source.content, **vars(extent_of(suite))}
        shown.begin(shown.refuse_other(content, "images"), (drawing.address,), {})
        _run(
            [job for job in (drawing, *judging) if not job.is_done(request.store)], request, console
        )
        _link_images(request, items)
        summaries = {job.judge: _summary(request, job) for job in judging}
        return show_summaries(output, summaries, skipped, console)


def _skipped(request: Evaluation, judging: Sequence[Judge], console: Console) -> dict[str, str]:
    """Judges that cannot be used here, and why; tried before anything is drawn."""
    skipped: dict[str, str] = {}
    for job in judging:
        if job.is_done(request.store):
            continue
        try:
            job.config.build().check_canaries()
        except EvaluatorError as error:
            line = of_judge(error, {job.judge: job.config})
            if request.scoring.is_chosen or len(judging) == 1:
                raise UserError(line) from error
            skipped[job.judge] = line
            text = f"{job.judge}: will be skipped: {skipped[job.judge]}"
            console.print(text, highlight=False, markup=False)
        # Else this judge and the next one share the memory.
        gc.collect()
    if len(skipped) == len(judging):
        raise UserError("no judge could be used; run 'python -m soarbench doctor'")
    return skipped


def _run(jobs: Sequence[Job], request: Evaluation, console: Console) -> None:
    """Bring jobs to their end; the first failure ends the command."""
    if not jobs:
        return
    request.cell.model.check_source()
    with large_imports():
        from soarbench.jobs.workbench import ModelWorkbench
        from soarbench.tracking.tracker import NoTracker

    store, progress = request.store, GridProgress(console, {job.key: 1.0 for job in jobs})

    def run(job: Job) -> None:
        # The text encoders, the model and each judge are loaded one after the other.
        gc.collect()
        bench = ModelWorkbench(request.device, store)
        if isinstance(job, Draw):
            bench.sets.encode_prompts([request.cell])
        job.run(Context(store=store, workbench=bench, tracker=NoTracker(), progress=progress))

    with progress.shown():
        for job in jobs:
            run_repaired(job, run)


def _link_images(request: Evaluation, items: Sequence[PromptItem]) -> None:
    """Show the images in GenEval's folders, which ``score`` and other programs read."""
    suite = request.scoring.suite
    source = request.store.artefact(addresses.images(request.cell, 0, suite).address).root
    for number, item in enumerate(items):
        folder = request.scoring.images / f"{number:05d}"
        text = json.dumps({**item.metadata, "prompt": item.prompt}) + "\n"
        write = functools.partial(Path.write_text, data=text, encoding="utf-8")
        write_atomically(folder / "metadata.jsonl", write)
        (folder / "samples").mkdir(exist_ok=True)
        for index in range(suite.images_per_prompt):
            link = folder / "samples" / f"{index:04d}.png"
            image = image_path(source, item.prompt_id, index)
            # Another one was damaged, and is drawn again.
            if link.exists() and (link.samefile(image) or filecmp.cmp(image, link, shallow=False)):
                continue
            link.unlink(missing_ok=True)
            # Files of artefacts are replaced, never changed, so a link is as good as a copy.
            try:
                os.link(image, link)
            except OSError:  # another disk, or one without links
                write_atomically(link, functools.partial(shutil.copyfile, image))


def _summary(request: Evaluation, job: Judge) -> dict[str, object]:
    """What a judge came to, with where its rows are, seen from the output folder."""
    suite, extent = request.scoring.suite, extent_of(request.scoring.suite)
    folder = ScoresFolder(request.store.artefact(job.address).root)
    return summary_of(
        job.config,
        suite=suite.name,
        num_prompts=len(suite_prompts(suite).items),
        num_images=num_images(suite),
        coverage=request.scoring.coverage,
        numbers=folder.summary(extent),
        extent=extent,
        # Relative, so that both folders can be moved together.
        scores=os.path.relpath(folder.root.resolve(), request.scoring.output.resolve()),
    )
