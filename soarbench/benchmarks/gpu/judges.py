"""Images a second of the local judges: their own code, random weights of the published sizes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers import Mask2FormerForUniversalSegmentation as Mask2Former

from evaluators.base import Sample
from evaluators.clip.encoders import ClipEncoder, TransformersClipEncoder, paired_cosines
from evaluators.clip.open_clip_models import (
    OpenClipParts,
    build_open_clip,
    image_preprocess,
    save_open_clip,
)
from evaluators.devices import on_device
from evaluators.geneval.canaries import draw_street
from evaluators.geneval.colors import ColorClassifier
from evaluators.geneval.mask2former import Mask2FormerDetector
from evaluators.preference.aesthetic import AestheticConfig
from evaluators.preference.base import LoadedScorer, PreferenceEvaluator, ScorerConfig
from evaluators.preference.clipscore import ClipScoreConfig
from evaluators.preference.hpsv21 import HpsConfig, padded_square
from evaluators.preference.imagereward import ImageRewardConfig
from evaluators.preference.imagereward_model import MAX_TOKENS, ImageRewardModel
from evaluators.preference.pickscore import PickScoreConfig
from evaluators.preference.rating_head import AestheticHead
from soarbench.benchmarks import published_sizes
from soarbench.benchmarks.gpu.inference import images_a_second
from soarbench.benchmarks.gpu.training import Report
from soarbench.planning.memory_and_time import Demand, Gpu

COUNT, SIZE, ROUNDS = 64, 512, 3
DTYPE = torch.bfloat16
Judge = Callable[[Sequence[Image.Image]], Sequence[object]]


def measure_judges(_demand: Demand, device: torch.device, _gpu: Gpu | None, report: Report) -> None:
    """Each judge alone, in bfloat16, from pictures to scores; OCR runs on the CPU."""
    images = [draw_street(signs=i % 4 > 0).resize((SIZE, SIZE)) for i in range(COUNT)]
    for name, build in JUDGES.items():
        judge = build(device)
        judge(images[:8])
        rate = images_a_second(functools.partial(judge, images), COUNT, device, rounds=ROUNDS)
        report({f"{name} images/s": rate})


class RandomEvaluator(PreferenceEvaluator):
    """A judge as it is, with random weights in the place of the published ones."""

    def __init__(self, config: ScorerConfig, scorer: LoadedScorer) -> None:
        super().__init__(config)
        self._random = scorer

    @functools.cached_property
    def _scorer(self) -> LoadedScorer:
        return self._random


def judging(config: ScorerConfig, scorer: LoadedScorer) -> Judge:
    """What scores pictures by the evaluator's own code."""
    evaluator = RandomEvaluator(config, scorer)

    def judge(images: Sequence[Image.Image]) -> Sequence[object]:
        # Four images a prompt, as suites have them.
        prompts = (f"a photo of {i // 4} stop signs beside a road" for i in range(len(images)))
        pairs = enumerate(zip(prompts, images, strict=True))
        return evaluator.score([Sample.drawn(str(i), *pair) for i, pair in pairs])

    return judge


def clip_parts(architecture: str, device: torch.device) -> OpenClipParts:
    """An open_clip model as ``load_parts`` gives it."""
    config = {"model_cfg": open_clip.get_model_config(architecture)}
    with device:
        model = build_open_clip(config)
    return OpenClipParts(
        frozen(model.to(DTYPE)), image_preprocess(config), open_clip.SimpleTokenizer()
    )


def frozen(model: nn.Module) -> nn.Module:
    """As every judge holds its model."""
    return model.eval().requires_grad_(False)


def _cosines(config: ScorerConfig, encoder: ClipEncoder) -> Judge:
    values = functools.partial(paired_cosines, encoder)
    return judging(config, LoadedScorer(values, encoder.preprocess, encoder.side, "random"))


def clipscore(device: torch.device) -> Judge:
    """CLIP ViT-L/14."""
    return _cosines(ClipScoreConfig(), clip_parts("ViT-L-14", device))


def hpsv21(device: torch.device) -> Judge:
    """CLIP ViT-H/14 with a transform of its own."""
    parts = clip_parts("ViT-H-14", device)
    whole = functools.partial(padded_square, size=parts.side)
    return _cosines(HpsConfig(), parts._replace(preprocess=whole))


def aesthetic(device: torch.device) -> Judge:
    """The head on CLIP ViT-L/14's embedding."""
    parts = clip_parts("ViT-L-14", device)
    head = frozen(AestheticHead(parts.width).to(device))

    def values(_: Sequence[str], pixels: Tensor) -> list[float]:
        ratings: list[float] = head(parts.images(pixels)).tolist()
        return ratings

    return judging(AestheticConfig(), LoadedScorer(values, parts.preprocess, parts.side, "random"))


def pickscore(device: torch.device) -> Judge:
    """CLIP ViT-H/14 in transformers' classes, loaded as the published one is."""
    vocabulary = open_clip.SimpleTokenizer()
    with tempfile.TemporaryDirectory() as name:
        with device:
            model = CLIPModel(published_sizes.pickscore())
        nn.Module.to(model, dtype=DTYPE)
        model.save_pretrained(name)
        CLIPImageProcessorPil().save_pretrained(name)
        # open_clip's words, with the two special ones under transformers' names.
        words = [*list(vocabulary.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
        vocab = {word: index for index, word in enumerate(words)}
        merges = list(vocabulary.bpe_ranks)
        CLIPTokenizer(vocab=vocab, merges=merges).save_pretrained(name)
        encoder = TransformersClipEncoder(Path(name), dtype=DTYPE, device=device)
    return _cosines(PickScoreConfig(), encoder)


def imagereward(device: torch.device) -> Judge:
    """BLIP's ViT-L/16 with BERT, and a head that stays in float32; ids stand for tokens."""
    with device:
        model = frozen(ImageRewardModel(*published_sizes.imagereward()))
    for encoder in (model.vision, model.text):
        encoder.to(dtype=DTYPE)
    transform = image_preprocess({"model_cfg": {"vision_cfg": {}}})

    def values(prompts: Sequence[str], pixels: Tensor) -> list[float]:
        ids = torch.ones(len(prompts), MAX_TOKENS, dtype=torch.long, device=device)
        rewards: list[float] = model(on_device(pixels, device, DTYPE), ids, ids).tolist()
        return rewards

    return judging(ImageRewardConfig(), LoadedScorer(values, transform, 224, "random"))


def geneval(device: torch.device) -> Judge:
    """Mask2Former with Swin-S on every image, and CLIP on what it sees, loaded as published."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with device:
            Mask2Former(published_sizes.mask2former()).save_pretrained(folder / "detector")
            config = {"model_cfg": open_clip.get_model_config("ViT-L-14")}
            save_open_clip(folder / "clip", build_open_clip(config), config)
        colors = ColorClassifier(str(folder / "clip"), device=device, dtype=DTYPE)
        detector = Mask2FormerDetector(
            str(folder / "detector"), color_classifier=colors, device=device, dtype=DTYPE
        )
    clause = {"class": "stop sign", "count": 1, "color": "red"}
    metadata = {"tag": "colors", "include": [clause]}
    return lambda images: detector.detect(images, [metadata] * len(images))


JUDGES: Mapping[str, Callable[[torch.device], Judge]] = {
    "clipscore": clipscore,
    "aesthetic": aesthetic,
    "imagereward": imagereward,
    "geneval": geneval,
    "hpsv21": hpsv21,
    "pickscore": pickscore,
}
