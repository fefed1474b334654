"""Images a second of the local judges: their own code, random weights of the published sizes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers import Mask2FormerForUniversalSegmentation as Mask2Former
from transformers.initialization import no_init_weights

from evaluators.clip.encoders import ClipEncoder, TransformersClipEncoder, paired_cosines
from evaluators.clip.open_clip_models import (
    OpenClipParts,
    build_open_clip,
    image_preprocess,
    save_open_clip,
)
from evaluators.geneval.canaries import draw_street
from evaluators.geneval.colors import ColorClassifier
from evaluators.geneval.mask2former import Mask2FormerDetector
from evaluators.preference.hpsv21 import padded_square
from evaluators.preference.imagereward_model import MAX_TOKENS, ImageRewardModel
from evaluators.preference.rating_head import AestheticHead
from soarbench.benchmarks import published_sizes
from soarbench.benchmarks.gpu.inference import images_a_second
from soarbench.benchmarks.gpu.training import Report
from soarbench.planning.memory_and_time import Demand, Gpu

COUNT, SIZE, ROUNDS = 64, 512, 3
DTYPE = torch.bfloat16
Judge = Callable[[Sequence[Image.Image]], object]


def measure_judges(_demand: Demand, device: torch.device, _gpu: Gpu | None, report: Report) -> None:
    """Each judge alone, in bfloat16, preprocessing included; OCR runs on the CPU."""
    images = [draw_street(signs=i % 4).resize((SIZE, SIZE)) for i in range(COUNT)]
    for name, build in JUDGES.items():
        with torch.inference_mode():
            judge = build(device)
            judge(images[:8])
            rate = images_a_second(functools.partial(judge, images), COUNT, device, rounds=ROUNDS)
        report({f"{name} images/s": rate})


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


def _cosines(encoder: ClipEncoder) -> Judge:
    return lambda images: paired_cosines(encoder, _prompts(images), images)


def _prompts(images: Sequence[Image.Image]) -> list[str]:
    # Four images a prompt, as suites have them.
    return [f"a photo of {i // 4} stop signs beside a road" for i in range(len(images))]


def clipscore(device: torch.device) -> Judge:
    """CLIP ViT-L/14."""
    return _cosines(clip_parts("ViT-L-14", device))


def hpsv21(device: torch.device) -> Judge:
    """CLIP ViT-H/14 with a transform of its own."""
    parts = clip_parts("ViT-H-14", device)
    return _cosines(parts._replace(preprocess=functools.partial(padded_square, size=224)))


def aesthetic(device: torch.device) -> Judge:
    """The head on CLIP ViT-L/14's embedding."""
    parts = clip_parts("ViT-L-14", device)
    head = frozen(AestheticHead(parts.width).to(device))
    return lambda images: head(parts.images(images)).tolist()


def pickscore(device: torch.device) -> Judge:
    """CLIP ViT-H/14 in transformers' classes, loaded as the published one is."""
    vocabulary = open_clip.SimpleTokenizer()
    with tempfile.TemporaryDirectory() as name:
        with device, no_init_weights():
            CLIPModel(published_sizes.pickscore()).to(DTYPE).save_pretrained(name)
        CLIPImageProcessorPil().save_pretrained(name)
        # open_clip's words, with the two special ones under transformers' names.
        words = [*list(vocabulary.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
        vocab = {word: index for index, word in enumerate(words)}
        merges = list(vocabulary.bpe_ranks)
        CLIPTokenizer(vocab=vocab, merges=merges).save_pretrained(name)
        encoder = TransformersClipEncoder(Path(name), dtype=DTYPE, device=device)
    return _cosines(encoder)


def imagereward(device: torch.device) -> Judge:
    """BLIP's ViT-L/16 with BERT, and a head that stays in float32; ids stand for tokens."""
    with device:
        model = frozen(ImageRewardModel(*published_sizes.imagereward()))
    for encoder in (model.vision, model.text):
        encoder.to(dtype=DTYPE)
    transform = image_preprocess({"model_cfg": {"vision_cfg": {}}})

    def judge(images: Sequence[Image.Image]) -> object:
        pixels = torch.stack([transform(image) for image in images]).to(device, DTYPE)
        ids = torch.ones(len(images), MAX_TOKENS, dtype=torch.long, device=device)
        return model(pixels, ids, ids).tolist()

    return judge


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
