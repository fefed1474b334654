"""OCR accuracy of text that a prompt asked for, read by PaddleOCR."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluators.base import ADDRESS, Canary, Evaluator, JudgeConfig, Sample, Score, mean_of
from evaluators.batches import at_once
from evaluators.ocr import engine as ocr_engine
from evaluators.ocr.engine import Line, TextReader
from evaluators.weights import EvaluatorError, combined_hash

#: Opening and closing marks that make a pair of double quotes.
QUOTES = (
    ('"', '"'), ("“", "”"), ("”", "”"), ("„", "“”"), ("‟", "”"), ("\uff02", "\uff02"), ("❝", "❞"),
    ("〝", "〞〟"), ("«", "»"), ("»", "«"), ("「", "」"), ("『", "』"),
)  # fmt: skip
_PAIRS = re.compile("|".join(f"{opening}([^{closing}]*)[{closing}]" for opening, closing in QUOTES))
# A pair of unlike marks, as in "Open”, counts only where no proper pair is found.
_MIXED = re.compile('["“”„‟\uff02]([^"“”„‟\uff02]*)["“”‟\uff02]')
#: Longest side an upscaled image may get, pixels: very flat images stay readable in memory.
_MAX_SIDE = 4096
#: Pixels of an image, for which the batch size is stated.
_USUAL_PIXELS = 1024**2
_MODEL_NAMES = ("detection_model", "recognition_model")
Engine = Literal["onnxruntime", "paddle", "published"]
_CANARIES = (("OPEN", "QUIZ", "black", "white"), ("Coffee", "Bread", "white", "darkblue"))


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions."""
    row = list(range(len(second) + 1))
    for i, char in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            step = min(row[j] + 1, row[j - 1] + 1, diagonal + (char != other))
            diagonal, row[j] = row[j], step
    return row[-1]


def _plain(text: str) -> str:
    return text.replace(" ", "").lower()


def text_reward(recognised: str, target: str) -> float:
    """How much of the wanted text was read: 1 - min(d, n) / n.

    Case and spaces do not count; d is the edit distance, 0 where the target is contained in what
    was read; n is the target's length. A blank target is a ``ValueError``.

    Source: Flow-GRPO, arXiv:2505.05470, visual text rendering reward.
    """
    expected, read = _plain(target), _plain(recognised)
    if not expected:
        raise ValueError(f"target text {target!r} is blank; quote the wanted text in the prompt")
    if expected in read:
        return 1.0
    return 1 - min(edit_distance(read, expected), len(expected)) / len(expected)


def target_text(prompt: str) -> str:
    """The text between the first pair of double quotes, of any kind; ``ValueError`` without one."""
    match = _PAIRS.search(prompt) or _MIXED.search(prompt)
    if match is None:
        raise ValueError(
            f"prompt {prompt!r} has no text in double quotes; OCR needs the wanted text quoted, "
            'as in: a sign that says "OPEN"'
        )
    text = next((group for group in match.groups() if group is not None), "")
    if not text.strip():
        raise ValueError(f"prompt {prompt!r} has nothing between its double quotes")
    # A line break is not drawn as one.
    return " ".join(text.split())


@dataclass(frozen=True, kw_only=True)
class OcrConfig(JudgeConfig):
    """Which reader, and what counts as read.

    Attributes:
        engine: ``onnxruntime`` (needs no paddlepaddle), ``paddle``, or ``published``: as Flow-GRPO
            reads, PaddleOCR 2.9.1's English models on images whose red and blue are swapped. It
            brings its models.
        detection_model: PaddleOCR's name of the text detection model.
        recognition_model: PaddleOCR's name of the text recognition model.
        detection_dir: Its directory; None takes the ``rapidocr`` wheel's or ``paddle``'s own.
        recognition_dir: As ``detection_dir``.
        min_confidence: A line read with less confidence (0..1) is ignored.
        min_side: Images whose shorter side is smaller are enlarged to it (bicubic), pixels.
        batch_size: Images handed to the reader at a time, if none has more than 1024 x 1024 pixels.
        num_threads: Of the reader; None takes ``OMP_NUM_THREADS`` or all cores.
        device: ``cpu``, ``gpu`` or ``gpu:0``.
    """

    kind = "ocr"
    title = "OCR"
    summary = "text in the image, by PaddleOCR"
    unit = "1 - edit distance / length of the wanted text"
    units: ClassVar[Mapping[str, str]] = {"exact": "share of images, 0..1"}
    value_range = (0.0, 1.0)
    packages = ("paddleocr", "onnxruntime", "rapidocr")
    code = ("evaluators.ocr.engine",)
    optional = tuple(ocr_engine.PUBLISHED_MODELS.values())

    engine: Engine = "onnxruntime"
    detection_model: str = "PP-OCRv6_small_det"
    recognition_model: str = "PP-OCRv6_small_rec"
    detection_dir: str | None = field(default=None, metadata=ADDRESS)
    recognition_dir: str | None = field(default=None, metadata=ADDRESS)
    # The default drop_score of PaddleOCR 2, whose reader so hid such lines from Flow-GRPO, too:
    # accidental strokes should not be rewarded.
    min_confidence: float = 0.5
    min_side: int = 256
    batch_size: int = field(default=16, metadata=ADDRESS)
    num_threads: int | None = field(default=None, metadata=ADDRESS)
    device: str = field(default="cpu", metadata=ADDRESS)

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise ValueError(f"engine={self.engine!r}: choose {', '.join(get_args(Engine))}")
        if self.engine == "published" and (self.detection_dir or self.recognition_dir):
            raise ValueError(
                "engine='published' brings its models: leave out detection_dir and recognition_dir"
            )
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence={self.min_confidence}: must be in 0..1")
        if self.min_side < 32:
            raise ValueError(f"min_side={self.min_side}: must be at least 32 pixels")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 1")
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads={self.num_threads}: must be at least 1, or null")

    @property
    def runs_on(self) -> str:
        """Its device, as torch names it."""
        return self.device.replace("gpu", "cuda")

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The models' directories; the wheel's models are known by their names."""
        # The directory's content is in the address, where it lies is not.
        folders = {"detection_dir": self.detection_dir, "recognition_dir": self.recognition_dir}
        return {name: ocr_engine.FILES for name, folder in folders.items() if folder is not None}

    def settings(self) -> dict[str, object]:
        """The names of the models that read, whatever they are set to for another engine."""
        names: dict[str, object] = {}
        if self.engine == "published":
            names = dict(zip(_MODEL_NAMES, ocr_engine.PUBLISHED_MODELS, strict=True))
        return super().settings() | names

    def check_prompt(self, prompt: str, metadata: Mapping[str, object]) -> None:  # noqa: ARG002
        """Refuse, by a ``ValueError``, a prompt that quotes no text."""
        target_text(prompt)

    def build(self) -> OcrEvaluator:
        """The evaluator; nothing is loaded before it is needed."""
        return OcrEvaluator(self)


def enlarged(image: Image.Image, min_side: int) -> Image.Image:
    """An RGB image whose shorter side is at least ``min_side`` pixels, its ratio kept."""
    image = image.convert("RGB")
    shorter, longer = min(image.size), max(image.size)
    scale = min(min_side / shorter, max(_MAX_SIDE / longer, 1.0))
    if scale <= 1:
        return image
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


class OcrEvaluator(Evaluator):
    """Reads the image and compares with the text that the prompt quotes; loads when first used.

    A ``reader`` takes the place of PaddleOCR: RGB images (H, W, 3) in, their lines out.
    """

    config: OcrConfig

    def __init__(self, config: OcrConfig | None = None, reader: TextReader | None = None) -> None:
        self.config = config or OcrConfig()
        self._reader = reader
        self._files: tuple[Path, ...] = ()

    @property
    def weights_hash(self) -> str:
        """The sha256 of both models' files."""
        self._load()
        return combined_hash(self._files) if self._files else ""

    def _load(self) -> TextReader:
        if self._reader is None:
            self._reader, self._files = ocr_engine.load(
                engine=self.config.engine,
                detection=(self.config.detection_model, self.config.detection_dir),
                recognition=(self.config.recognition_model, self.config.recognition_dir),
                num_threads=self.config.num_threads,
                device=self.config.device,
            )
        return self._reader

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order; ``EvaluatorError`` where the engine failed."""
        # All before the first is read: a prompt that quotes nothing is a ``ValueError``.
        targets = [_target_of(sample) for sample in samples]
        pixels = max((sample.image.width * sample.image.height for sample in samples), default=0)
        size = at_once(self.config.batch_size, pixels, usual=_USUAL_PIXELS)
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        pages = itertools.chain.from_iterable(map(self._read, batches))
        return list(map(self._judged, samples, targets, pages))

    def _read(self, batch: Sequence[Sample]) -> list[list[Line]]:
        reader = self._load()
        images = [np.asarray(enlarged(sample.image, self.config.min_side)) for sample in batch]
        try:
            lines = list(reader(images))
        except EvaluatorError:
            raise
        # Whatever another package raises: PaddleOCR 3 changed the API under all its callers, and
        # where they swallowed the error every image scored 0.
        except Exception as err:
            raise EvaluatorError(
                f"the OCR engine failed on images {batch[0].sample_id!r} to "
                f"{batch[-1].sample_id!r} ({type(err).__name__}: {err}); nothing was scored"
            ) from err
        if len(lines) != len(batch):
            raise EvaluatorError(f"the OCR engine read {len(lines)} of {len(batch)} images")
        return lines

    def _judged(self, sample: Sample, target: str, lines: list[Line]) -> Score:
        kept = [line for line in lines if line.confidence >= self.config.min_confidence]
        text = " ".join(" ".join(line.text for line in kept).split())
        details: dict[str, object] = {
            "recognised": text,
            "target": target,
            "exact": _plain(text) == _plain(target),
            "confidence": min((line.confidence for line in kept), default=0.0),
            "ignored_lines": len(lines) - len(kept),
        }
        value = text_reward(text, target)
        return Score(sample_id=sample.sample_id, value=value, details=details)

    def canaries(self) -> Sequence[Canary]:
        """Drawn words, dark on light and light on dark, against another word."""
        pairs = []
        for word, other, ink, paper in _CANARIES:
            prompt = f'a sign that says "{word}"'
            good, bad = (
                Sample.drawn(f"canary/ocr/{drawn}", prompt, drawn_word(drawn, ink=ink, paper=paper))
                for drawn in (word, other)
            )
            pairs.append(Canary(good=good, bad=bad))
        return pairs

    def aggregate(self, samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, float]:
        """The mean reward first, then the share of images read exactly."""
        summary = super().aggregate(samples, scores)
        exact = [bool(score.details["exact"]) for score in scores if score.reason is None]
        return {"mean": summary["mean"], "exact": mean_of(exact), "unscored": summary["unscored"]}


def _target_of(sample: Sample) -> str:
    try:
        return target_text(sample.prompt)
    except ValueError as err:
        raise ValueError(f"{sample.sample_id}: {err}") from err


def drawn_word(word: str, *, ink: str, paper: str, size: int = 256) -> Image.Image:
    """A square picture of one word, in Pillow's own font."""
    image = Image.new("RGB", (size, size), paper)
    font = ImageFont.load_default(size / 5)
    ImageDraw.Draw(image).text((size / 2, size / 2), word, fill=ink, font=font, anchor="mm")
    return image
