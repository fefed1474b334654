"""The laboratory's judges: exact ones that know the drawn world, and learned ones of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from evaluators.base import Canary, Evaluator, JudgeConfig, Sample, Score
from evaluators.geneval.config import GenEvalFacts
from evaluators.geneval.detectors import Detection
from evaluators.geneval.metadata import MetadataError
from evaluators.geneval.verdict import GenEval
from evaluators.preference.aesthetic import AestheticConfig
from evaluators.preference.base import PreferenceEvaluator, ScorerConfig
from evaluators.preference.clipscore import ClipScoreConfig
from soarbench.lab.assets import ASSETS, HEAD_FILE, asset_dir
from soarbench.lab.world.grammar import PLACES, Composition, by_caption, is_in_place, lay_out
from soarbench.lab.world.scenes import CLEAN_STYLE, COLORS, SHAPES, Scene, Style, render


class LabDetector:
    """The analytical detector as GenEval asks for one; nothing in it was trained."""

    name = "analytical"
    version = "2"
    weights_hash = ""
    class_names: Sequence[str] = SHAPES
    color_names: Sequence[str] = COLORS

    def detect(
        self, images: Sequence[Image.Image], metadatas: Sequence[Mapping[str, object]]
    ) -> list[list[Detection]]:
        """Shapes of each image with their colours; where a place is asked for, those in it.

        ``MetadataError`` where there is no such place.
        """
        # Imported late: SciPy takes longer than all that a configuration needs.
        from soarbench.lab.world.oracles import detect

        found = [detect(np.asarray(image)) for image in images]
        for index, (image, metadata) in enumerate(zip(images, metadatas, strict=True)):
            if "place" in metadata:
                place = str(metadata["place"])
                if place not in PLACES:
                    known = ", ".join(PLACES)
                    raise MetadataError(f"place is {place!r}; it must be one of {known}")
                found[index] = [d for d in found[index] if is_in_place(d.box, image.size, place)]
        return found


def picture(name: str, prompt: str, scene: Scene) -> Sample:
    """A drawn scene as judges take it."""
    image = Image.fromarray(render(scene))
    return Sample(sample_id=name, prompt_id=name, prompt=prompt, image=image)


def drawn_sample(name: str, composition: Composition, style: Style = CLEAN_STYLE) -> Sample:
    """A sample whose image is drawn from the composition, always the same."""
    metadata = composition.metadata()
    scene = lay_out(composition, style, np.random.default_rng(0))
    return replace(picture(name, str(metadata["prompt"]), scene), metadata=metadata)


def _swapped(asked: str, other: str) -> Canary:
    """The picture of a caption, and that of another one under the same prompt."""
    good, wrong = (
        drawn_sample(caption.removeprefix("a ").replace(" ", "-"), by_caption()[caption])
        for caption in (asked, other)
    )
    name = f"{good.sample_id}-as-{wrong.sample_id}"
    return Canary(good=good, bad=replace(good, sample_id=name, image=wrong.image))


def clip_canaries() -> tuple[Canary, ...]:
    """A circle that no model of the drawn world takes for a star of another colour."""
    return (_swapped("a red circle", "a blue star"),)


def geneval_canaries() -> tuple[Canary, ...]:
    """One pair for a colour and one for a count."""
    return (*clip_canaries(), _swapped("three hearts", "two hearts"))


def aesthetic_canaries() -> tuple[Canary, ...]:
    """A vivid, light picture over a dull, dark one."""
    dull = Style(lightness=0.2, gradient=-0.2, saturation=0.5, outline=0.0, shadow=0.0, grain=0.04)
    circle = by_caption()["a red circle"]
    return (Canary(good=drawn_sample("vivid", circle), bad=drawn_sample("dull", circle, dull)),)


@dataclass(frozen=True, kw_only=True)
class LabGenEvalConfig(GenEvalFacts):
    """GenEval with the analytical detector: in the laboratory this is the exact truth."""

    kind = "lab_geneval"
    summary = "the laboratory's exact GenEval"
    packages = ("scipy",)
    # The grammar says where a place is.
    code = (*GenEvalFacts.code, "soarbench.lab.world.grammar", "soarbench.lab.world.oracles")

    class_names = SHAPES
    color_names = COLORS

    def build(self) -> GenEval:
        """Loads nothing."""
        return GenEval(LabDetector(), canaries=geneval_canaries(), config=self)


@dataclass(frozen=True, kw_only=True)
class OracleGenEvalConfig(LabGenEvalConfig):
    """The same where a learned judge of alignment decides: then it tells whether that is gamed."""

    kind = "oracle_geneval"
    title = "GenEval (oracle)"
    is_oracle = True
    oracle_of = ("clipscore",)


class _OfAssets(ScorerConfig):
    """A scorer whose weights are the laboratory's."""

    def missing(self) -> tuple[str, str]:
        """The assets, where they were not built."""
        if all((ASSETS / part).exists() for part in ("manifest.json", "clip", "aesthetic")):
            return "", ""
        return "the laboratory's assets", "python -m soarbench lab build"

    def build(self) -> PreferenceEvaluator:
        """Verifies the assets first."""
        # Of those that are set: a user's own weights in place of one of them are no asset.
        for key in self.weight_files():
            path = Path(getattr(self, key))
            if path.is_relative_to(ASSETS):
                asset_dir(path.relative_to(ASSETS).parts[0])
        return super().build()


@dataclass(frozen=True, kw_only=True)
class LabClipScoreConfig(_OfAssets, ClipScoreConfig):
    """CLIPScore on the laboratory's own CLIP."""

    kind = "lab_clipscore"
    summary = "the laboratory's own CLIP"
    published = ()

    weights: str = str(ASSETS / "clip")

    def canaries(self) -> Sequence[Canary]:
        """Of the drawn world, the only one that this CLIP knows."""
        return clip_canaries()


@dataclass(frozen=True, kw_only=True)
class LabAestheticConfig(_OfAssets, AestheticConfig):
    """The learned aesthetic score: the laboratory's head on its CLIP."""

    kind = "lab_aesthetic"
    summary = "the laboratory's own aesthetic head"
    published = ()

    weights: str = str(ASSETS / "clip")
    head: str = str(ASSETS / "aesthetic" / HEAD_FILE)

    def canaries(self) -> Sequence[Canary]:
        """A vivid picture over a dull one."""
        return aesthetic_canaries()


@dataclass(frozen=True, kw_only=True)
class OracleAestheticConfig(JudgeConfig):
    """The aesthetic truth of the drawn world, a fixed function of pixels."""

    kind = "oracle_aesthetic"
    title = "Aesthetic (oracle)"
    summary = "the laboratory's aesthetic truth"
    unit = "points, 1..10"
    value_range = (1.0, 10.0)
    is_oracle = True
    oracle_of = ("aesthetic",)
    packages = ("scipy",)
    code = ("soarbench.lab.world.oracles",)

    def build(self) -> OracleAesthetic:
        """Loads nothing."""
        return OracleAesthetic()


class OracleAesthetic(Evaluator):
    """The aesthetic truth."""

    config = OracleAestheticConfig()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score an image; it cannot fail on an RGB image of 64 x 64 pixels."""
        from soarbench.lab.world.oracles import aesthetic_truth

        return [
            Score(sample_id=s.sample_id, value=aesthetic_truth(np.asarray(s.image)))
            for s in samples
        ]

    def canaries(self) -> Sequence[Canary]:
        """A vivid picture over a dull one."""
        return aesthetic_canaries()
