"""``python -m soarbench bench judges``: GenEval's speed, against ``naive_geneval``'s."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from rich.console import Console

from evaluators.base import EvaluatorError
from evaluators.geneval.canaries import draw_street
from evaluators.geneval.config import COLOR_FILES, GenEvalConfig
from evaluators.geneval.prompts import CLASS_NAMES, COLORS
from evaluators.samples import SampleFile
from evaluators.weights import resolve_directory
from soarbench.benchmarks.tables import number_table, this_machine
from soarbench.common.errors import ConfigError, UserError
from soarbench.config.keys import Options
from soarbench.config.registries import judges_of
from soarbench.config.suites import SuiteConfig
from soarbench.jobs.score_images import one_line

_NUM_ROUNDS, _SIZE = 2, 512
#: Share of prompts that ask for a colour: in GenEval 94 of the task colors and 100 of color_attr.
_WORKLOADS = {"all ask for a colour": 1.0, "as in GenEval": 194 / 553}
_SIGN = "stop sign"

Verdict = tuple[bool, bool, float]
Judging = Callable[[Sequence[SampleFile]], list[Verdict]]


@dataclass(frozen=True)
class Race:
    """What one workload took: seconds of all images, and how many had equal verdicts."""

    name: str
    ours: float
    naive: float
    num_images: int
    num_equal: int


@dataclass(frozen=True, kw_only=True)
class JudgeBenchOptions(Options):
    """What ``bench judges`` takes.

    Attributes:
        num_images: Judged by each form.
    """

    settings: ClassVar[tuple[str, ...] | None] = ("judge",)
    renamed: ClassVar[Mapping[str, str]] = {"images": "num_images"}
    num_images: int = 16

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"num_images={self.num_images}: must be at least 1")


def bench_judges(options: JudgeBenchOptions, words: Sequence[str], *, console: Console) -> int:
    """Race both forms and print the result. -> 0, or 1 when a verdict differs.

    Without ``words`` (``judge.geneval.KEY=VALUE``) tiny random models are raced; ``UserError``
    where a word is unknown or weights cannot be used.
    """
    for word in words:
        if not word.startswith("judge.geneval."):
            raise ConfigError(f"{word}: this bench measures judge.geneval alone")
    config = judges_of(SuiteConfig.judges_of, words)["geneval"]
    assert isinstance(config, GenEvalConfig)
    if config.dtype != "float32":
        raise ConfigError("judge.geneval.dtype: the naive form is float32; leave it out")
    # Imported late, as all that loads torch: misuse is told within a second.
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of reading weights, which would cut through the status line
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = config if words else _with_tiny_weights(config, Path(folder))
            races = list(_races(config, Path(folder), options.num_images, console))
    except EvaluatorError as error:
        raise UserError(one_line(error)) from error
    _show(races, "the configured weights" if words else "tiny random models", console)
    return 0 if all(race.num_equal == race.num_images for race in races) else 1


def _with_tiny_weights(config: GenEvalConfig, folder: Path) -> GenEvalConfig:
    """Random models of the published classes; 100 queries, a few of which see stop signs."""
    from soarbench.benchmarks import tiny_detectors as tiny

    return replace(
        config,
        detector=tiny.save_sparse_mask2former(folder / "detector", CLASS_NAMES.index(_SIGN)),
        color_model=tiny.save_clip(folder / "clip"),
    )


def _races(
    config: GenEvalConfig, folder: Path, num_images: int, console: Console
) -> Iterator[Race]:
    import torch

    from evaluators.devices import torch_device
    from evaluators.geneval.mask2former import load_geneval
    from evaluators.scoring import checked_scores
    from soarbench.benchmarks.naive_geneval import NaiveGenEval
    from soarbench.evaluation.judging import decoded

    # Four workers on two cores are slow, and that is what is measured.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    device = torch_device(config.device)
    evaluator = load_geneval(config)
    naive = NaiveGenEval(
        config.detector,
        resolve_directory(config.color_model, COLOR_FILES),
        device,
    )

    def ours(files: Sequence[SampleFile]) -> list[Verdict]:
        chunks = (checked_scores(evaluator, samples) for samples in decoded(evaluator, files))
        return [_verdict(score.details) for scores in chunks for score in scores]

    def obvious(files: Sequence[SampleFile]) -> list[Verdict]:
        return [_verdict(vars(naive.verdict(file.path, file.metadata))) for file in files]

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for name, share in _WORKLOADS.items():
        files = draw_scenes(folder / name, num_images, share)
        with console.status(f"measuring: {name}"):
            yield race(name, files, ours, obvious, synchronise)


def _verdict(values: Mapping[str, object]) -> Verdict:
    correct, strict = bool(values["correct"]), bool(values["strict_correct"])
    # Batches of another size change the last bits of scores, and with them of the partial credit.
    return correct, strict, round(float(str(values["strict_score"])), 6)


def race(
    name: str,
    files: Sequence[SampleFile],
    ours: Judging,
    naive: Judging,
    synchronise: Callable[[], None],
) -> Race:
    """Time both forms on the same images; ``synchronise`` waits for the device."""
    times: dict[Judging, list[float]] = {ours: [], naive: []}
    answers: dict[Judging, list[Verdict]] = {}
    for judging in times:
        judging(files[:1])  # warms up
    # In turns, so that a busy machine slows both alike; the fastest round of each counts.
    for _ in range(_NUM_ROUNDS):
        for judging, seconds in times.items():
            start = time.perf_counter()
            answers[judging] = judging(files)
            synchronise()
            seconds.append(time.perf_counter() - start)
    equal = sum(a == b for a, b in zip(answers[ours], answers[naive], strict=True))
    return Race(name, min(times[ours]), min(times[naive]), len(files), equal)


def draw_scenes(folder: Path, count: int, color_share: float) -> list[SampleFile]:
    """Draw streets with and without stop signs.

    ``color_share`` of the prompts, 0..1, ask for their colour, the others for a number of signs.
    """
    folder.mkdir()
    files = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (_SIZE, _SIZE, 3), np.uint8)
        # Grain, so that a random detector does not see the same in every picture.
        image = Image.blend(draw_street(signs=number % 4 < 3), Image.fromarray(pixels), 0.15)
        path = folder / f"{number:04d}.png"
        image.save(path)
        clause: dict[str, object] = {"class": _SIGN, "count": 1 + number % 2}
        # Spread evenly over the pictures, whatever the share.
        asks_color = int((number + 1) * color_share) > int(number * color_share)
        clause |= {"color": COLORS[number % len(COLORS)]} if asks_color else {}
        metadata = {"tag": "colors" if asks_color else "single_object", "include": [clause]}
        files.append(
            SampleFile(
                sample_id=path.name,
                prompt_id=path.name,
                prompt=path.name,
                path=path,
                metadata=metadata,
            )
        )
    return files


def _show(races: Sequence[Race], weights: str, console: Console) -> None:
    rows = (
        (
            race.name,
            f"{race.num_images / race.ours:.2f}",
            f"{race.num_images / race.naive:.2f}",
            f"{race.naive / race.ours:.2f}",
            f"{race.num_equal} of {race.num_images}",
        )
        for race in races
    )
    heads = ("prompts", "ours, images/s", "naive, images/s", "ratio", "equal verdicts")
    console.print(number_table(f"GenEval with {weights} on {this_machine()}", heads, rows))
