"""Every judge of images by name: its configuration, what makes it, and what it needs to run.

Imports no framework; a judge's own module is imported when the judge is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from evaluators.base import Evaluator
from evaluators.geneval import config as geneval_config
from evaluators.geneval.config import GenEvalConfig
from evaluators.geneval.metadata import check_vocabulary, parse_request
from evaluators.geneval.prompts import CLASS_NAMES, COLORS
from evaluators.ocr.evaluator import OcrConfig, target_text
from evaluators.preference.config import (
    PUBLISHED,
    AestheticConfig,
    ClipScoreConfig,
    HpsConfig,
    ImageRewardConfig,
    PickScoreConfig,
    UnifiedRewardConfig,
)
from evaluators.weights import PublishedWeights
from soarbench.common.errors import ConfigError, UserError
from soarbench.common.strict import build, did_you_mean, imported
from soarbench.lab.world.scenes import COLORS as LAB_COLORS
from soarbench.lab.world.scenes import SHAPES

Metadata = Mapping[str, object]
_TORCH = ("torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How a judge is made, and what that takes.

    Attributes:
        summary: What it measures.
        make: Dotted path of a class or function; takes the configuration where there is one.
        config: Class of its configuration; null for the laboratory's judges.
        packages: Modules that it imports.
        weights: What its default configuration downloads.
        check: Raises ValueError for a prompt (with its metadata) that it cannot judge.
        is_lab: Whether it needs the laboratory's assets.
    """

    summary: str
    make: str
    config: type | None = None
    packages: tuple[str, ...] = _TORCH
    weights: tuple[PublishedWeights, ...] = ()
    check: Callable[[str, Metadata], object] = field(default=lambda prompt, metadata: None)  # noqa: ARG005
    is_lab: bool = False


def _check_geneval(prompt: str, metadata: Metadata) -> None:  # noqa: ARG001 (all checks take both)
    check_vocabulary(parse_request(metadata), CLASS_NAMES, COLORS)


def _check_lab_geneval(prompt: str, metadata: Metadata) -> None:  # noqa: ARG001
    check_vocabulary(parse_request(metadata), SHAPES, LAB_COLORS)


def _check_ocr(prompt: str, metadata: Metadata) -> None:  # noqa: ARG001
    target_text(prompt)


_PREFERENCE = "evaluators.preference"
JUDGES: Mapping[str, Judge] = {
    "geneval": Judge(
        summary="objects, counts, colours and positions, by Mask2Former and CLIP",
        make="evaluators.geneval.mask2former.load_geneval",
        config=GenEvalConfig,
        packages=(*_TORCH, "open_clip"),
        weights=geneval_config.PUBLISHED,
        check=_check_geneval,
    ),
    "ocr": Judge(
        summary="text in the image, by PaddleOCR",
        make="evaluators.ocr.evaluator.OcrEvaluator",
        config=OcrConfig,
        packages=("paddleocr", "onnxruntime", "rapidocr"),
        check=_check_ocr,
    ),
    "clipscore": Judge(
        summary="agreement of image and prompt",
        make=f"{_PREFERENCE}.clipscore.ClipScoreEvaluator",
        config=ClipScoreConfig,
        weights=PUBLISHED["clipscore"],
    ),
    "aesthetic": Judge(
        summary="how good the image looks",
        make=f"{_PREFERENCE}.aesthetic.AestheticEvaluator",
        config=AestheticConfig,
        weights=PUBLISHED["aesthetic"],
    ),
    "pickscore": Judge(
        summary="human preference (Pick-a-Pic)",
        make=f"{_PREFERENCE}.pickscore.PickScoreEvaluator",
        config=PickScoreConfig,
        weights=PUBLISHED["pickscore"],
    ),
    "hpsv21": Judge(
        summary="human preference (HPS v2.1)",
        make=f"{_PREFERENCE}.hpsv21.HpsV21Evaluator",
        config=HpsConfig,
        packages=(*_TORCH, "open_clip"),
        weights=PUBLISHED["hpsv21"],
    ),
    "imagereward": Judge(
        summary="human preference (ImageReward)",
        make=f"{_PREFERENCE}.imagereward.ImageRewardEvaluator",
        config=ImageRewardConfig,
        weights=PUBLISHED["imagereward"],
    ),
    "unifiedreward": Judge(
        summary="rating by a vision-language model behind a server",
        make=f"{_PREFERENCE}.unifiedreward.UnifiedRewardEvaluator",
        config=UnifiedRewardConfig,
        packages=("requests",),
    ),
    "lab_geneval": Judge(
        summary="the laboratory's exact GenEval",
        make="soarbench.lab.judges.geneval",
        packages=("scipy",),
        check=_check_lab_geneval,
    ),
    "lab_clipscore": Judge(
        summary="the laboratory's own CLIP",
        make="soarbench.lab.judges.clipscore",
        packages=(*_TORCH, "open_clip"),
        is_lab=True,
    ),
    "lab_aesthetic": Judge(
        summary="the laboratory's own aesthetic head",
        make="soarbench.lab.judges.aesthetic",
        packages=(*_TORCH, "open_clip"),
        is_lab=True,
    ),
    "oracle_aesthetic": Judge(
        summary="the laboratory's aesthetic truth",
        make="soarbench.lab.judges.oracle_aesthetic",
        packages=("scipy",),
    ),
}


def judge_named(name: str) -> Judge:
    """A judge.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in JUDGES:
        raise ConfigError(f"there is no judge {name!r}: {did_you_mean(name, JUDGES)}")
    return JUDGES[name]


def refuse_unjudgeable(names: Iterable[str], wishes: Iterable[tuple[str, str, Metadata]]) -> None:
    """Make sure that judges can judge prompts, before anything is loaded.

    Args:
        names: Of the judges.
        wishes: What to call each prompt in messages, the prompt, and its metadata.

    Raises:
        UserError: Names the first that cannot be judged, and why.
    """
    checks = [JUDGES[name].check for name in names]
    for label, prompt, metadata in wishes:
        for check in checks:
            try:
                check(prompt, metadata)
            except ValueError as error:
                raise UserError(f"{label}: {error}") from error


def judge_config(name: str, values: Mapping[str, object], key: str | None = None) -> object:
    """A judge's configuration with some values changed; None where it has none.

    Args:
        name: Of the judge.
        values: What is changed.
        key: Of the configuration, for messages; None: ``judge.NAME``.

    Raises:
        ConfigError: A value is unknown or cannot work.
    """
    kind, where = judge_named(name).config, key or f"judge.{name}"
    if kind is None:
        if values:
            raise ConfigError(f"{where} has nothing to configure; remove {', '.join(values)}")
        return None
    made: object = build(kind, values, where)
    return made


def make_judge(name: str, config: object) -> Evaluator:
    """Import and make a judge; most load their weights only when they first score.

    Raises:
        ConfigError: It cannot be imported.
        EvaluatorError: Its weights cannot be used.
    """
    factory = imported(JUDGES[name].make, f"judge.{name}")
    assert callable(factory)
    made = factory() if config is None else factory(config)
    assert isinstance(made, Evaluator)
    return made


def published(*, judge: str, **values: object) -> Evaluator:
    """A judge by its name, with some values of its published configuration changed.

    Raises:
        ConfigError: There is no such judge, or a value cannot work.
        EvaluatorError: Its weights cannot be used.
    """
    return make_judge(judge, judge_config(judge, values))
