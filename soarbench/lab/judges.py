"""The laboratory's evaluators: its analytical detector behind GenEval, and the aesthetic truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from PIL import Image

from evaluators.base import Canary, Evaluator, Sample, Score
from evaluators.geneval.detectors import Detection
from evaluators.geneval.verdict import GenEval
from soarbench.lab.assets import asset_dir
from soarbench.lab.world.grammar import Composition, Want, lay_out
from soarbench.lab.world.oracles import aesthetic_truth, detect
from soarbench.lab.world.scenes import CLEAN_STYLE, COLORS, SHAPES, Style, render


class LabDetector:
    """The analytical detector as GenEval asks for one; nothing in it was trained."""

    name = "analytical"
    version = "1"
    weights_hash = ""
    class_names: Sequence[str] = SHAPES
    color_names: Sequence[str] = COLORS

    def detect(
        self, images: Sequence[Image.Image], metadatas: Sequence[Mapping[str, object]]
    ) -> list[list[Detection]]:
        """Shapes of each image with their colours; ``metadatas`` is not looked at."""
        assert len(images) == len(metadatas)
        return [
            [Detection(s.label, s.box, s.score, s.color) for s in detect(np.asarray(image))]
            for image in images
        ]


def drawn_sample(name: str, composition: Composition, style: Style = CLEAN_STYLE) -> Sample:
    """A sample whose image is drawn from the composition, always the same."""
    scene = lay_out(composition, style, np.random.default_rng(0))
    metadata = composition.metadata()
    return Sample(
        sample_id=name,
        prompt_id=name,
        prompt=str(metadata["prompt"]),
        image=Image.fromarray(render(scene)),
        metadata=metadata,
    )


def with_image_of(sample: Sample, other: Sample) -> Sample:
    """The prompt of one sample over the image of another."""
    name = f"{sample.sample_id}-as-{other.sample_id}"
    return dataclasses.replace(sample, sample_id=name, image=other.image)


def _colored(shape: str, color: str) -> Composition:
    return Composition("colors", f"a {color} {shape}", (Want(shape, color=color),))


def _counted(word: str, count: int) -> Composition:
    return Composition("counting", f"{word} hearts", (Want("heart", count),))


def geneval_canaries() -> tuple[Canary, ...]:
    """One pair for a colour and one for a count."""
    red = drawn_sample("red-circle", _colored("circle", "red"))
    blue = drawn_sample("blue-star", _colored("star", "blue"))
    three = drawn_sample("three-hearts", _counted("three", 3))
    two = drawn_sample("two-hearts", _counted("two", 2))
    return (
        Canary(good=red, bad=with_image_of(red, blue)),
        Canary(good=three, bad=with_image_of(three, two)),
    )


def clip_canaries() -> tuple[Canary, ...]:
    """One picture under its own prompt and one of something else under the same prompt."""
    red = drawn_sample("red-circle", _colored("circle", "red"))
    blue = drawn_sample("blue-star", _colored("star", "blue"))
    return (Canary(good=red, bad=with_image_of(red, blue)),)


class OracleAesthetic(Evaluator):
    """The aesthetic truth of the drawn world, a fixed function of pixels."""

    name: ClassVar[str] = "oracle_aesthetic"
    version: ClassVar[str] = "1"
    value_range: ClassVar[tuple[float, float]] = (1.0, 10.0)
    unit: ClassVar[str] = "points, 1..10"

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score an image; it cannot fail on an RGB image of 64 x 64 pixels."""
        return [
            Score(sample_id=s.sample_id, value=aesthetic_truth(np.asarray(s.image)))
            for s in samples
        ]

    def canaries(self) -> Sequence[Canary]:
        """A vivid, light picture over a dull, dark one."""
        dull = Style(
            lightness=0.2, gradient=-0.2, saturation=0.5, outline=0.0, shadow=0.0, grain=0.04
        )
        composition = _colored("circle", "red")
        return (
            Canary(
                good=drawn_sample("vivid", composition),
                bad=drawn_sample("dull", composition, dull),
            ),
        )


def geneval() -> GenEval:
    """GenEval with the analytical detector: in the laboratory this is the exact truth."""
    return GenEval(LabDetector(), canaries=geneval_canaries())


def oracle_aesthetic() -> OracleAesthetic:
    """The aesthetic truth."""
    return OracleAesthetic()


def clipscore() -> Evaluator:
    """CLIPScore on the laboratory's own CLIP."""
    from evaluators.preference.clipscore import ClipScoreEvaluator
    from evaluators.preference.config import ClipScoreConfig

    config = ClipScoreConfig(weights=str(asset_dir("clip")))
    return ClipScoreEvaluator(config, canaries=clip_canaries())


def aesthetic() -> Evaluator:
    """The learned aesthetic score: the laboratory's head on its CLIP."""
    from evaluators.preference.aesthetic import HEAD_FILE, AestheticEvaluator
    from evaluators.preference.config import AestheticConfig

    config = AestheticConfig(
        weights=str(asset_dir("clip")), head=str(asset_dir("aesthetic") / HEAD_FILE)
    )
    return AestheticEvaluator(config, canaries=OracleAesthetic().canaries())


def ocr() -> Evaluator:
    """Real PaddleOCR on the enlarged image."""
    from evaluators.ocr.evaluator import OcrEvaluator

    return OcrEvaluator()
