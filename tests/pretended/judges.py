"""Each local judge's forward on a pretended GPU, with models of the published sizes.

OCR runs on the CPU, and UnifiedReward on a server.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import open_clip
import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import CLIPImageProcessorPil, CLIPModel, Mask2FormerForUniversalSegmentation
from transformers.initialization import no_init_weights

from evaluators.clip.encoders import TransformersClipEncoder, paired_cosines
from evaluators.clip.open_clip_models import OpenClipParts, build_open_clip, image_preprocess
from evaluators.geneval import colors, mask2former
from evaluators.preference.hpsv21 import padded_square
from evaluators.preference.imagereward_model import MAX_TOKENS, ImageRewardModel
from evaluators.preference.rating_head import AestheticHead
from soarbench.benchmarks import published_sizes
from tests.pretended.device import pretended

#: What scores some images; its results have no content.
Judge = Callable[[list[Image.Image]], object]
DTYPE, GPU = torch.bfloat16, torch.device("cuda", 0)
_IMAGES = 32


def frozen(model: nn.Module) -> nn.Module:
    """As every judge holds its model."""
    return model.eval().requires_grad_(False)


def without_mode(method: Callable[..., object]) -> Callable[..., object]:
    """A method as it was before ``inference_mode``, in which torch takes operations apart."""
    return functools.partial(method.__wrapped__, method.__self__)


def with_content(transform: Callable[..., object]) -> Callable[..., object]:
    """A transform on the CPU as it is: it looks at what is in its tensors."""

    def transformed(*args: object, **kwargs: object) -> object:
        with unset_fake_temporarily():
            return transform(*args, **kwargs)

    return transformed


def parts(architecture: str) -> OpenClipParts:
    """An open_clip model as ``load_parts`` gives it."""
    config = {"model_cfg": open_clip.get_model_config(architecture)}
    model = frozen(build_open_clip(config).to(GPU, DTYPE))
    transform = with_content(image_preprocess(config))
    return OpenClipParts(model, transform, open_clip.SimpleTokenizer())


def tokens(texts: list[str], **_: object) -> _OnDevice:
    """As a tokenizer of transformers whose vocabulary is on the hub."""
    ids = torch.zeros(len(texts), 77, dtype=torch.long)
    return _OnDevice(input_ids=ids, attention_mask=ids)


class _OnDevice(dict[str, torch.Tensor]):
    def to(self, device: torch.device) -> _OnDevice:
        return _OnDevice({name: value.to(device) for name, value in self.items()})


def pickscore() -> TransformersClipEncoder:
    """CLIP ViT-H/14 in transformers' classes."""
    encoder = object.__new__(TransformersClipEncoder)
    encoder._model = frozen(CLIPModel(published_sizes.pickscore()).to(GPU, DTYPE))
    encoder._transform, encoder._tokenizer = with_content(CLIPImageProcessorPil()), tokens
    encoder._max_tokens = 77
    return encoder


def hpsv21() -> OpenClipParts:
    """CLIP ViT-H/14 in open_clip's classes, with a transform of its own."""
    transform = with_content(functools.partial(padded_square, size=224))
    return parts("ViT-H-14")._replace(preprocess=transform)


def imagereward() -> Judge:
    """BLIP's ViT-L/16 with BERT, and a head that stays in float32."""
    model = frozen(ImageRewardModel(*published_sizes.imagereward()).to(GPU))
    for encoder in (model.vision, model.text):
        encoder.to(dtype=DTYPE)

    def rewards(images: list[Image.Image]) -> torch.Tensor:
        ids = torch.ones(len(images), MAX_TOKENS, dtype=torch.long, device=GPU)
        return model(torch.randn(len(images), 3, 224, 224, device=GPU, dtype=DTYPE), ids, ids)

    return rewards


def geneval() -> Judge:
    """Mask2Former with Swin-S on two batches of the images, and CLIP on a crop of each."""
    model = frozen(Mask2FormerForUniversalSegmentation(published_sizes.mask2former()))
    detector = object.__new__(mask2former.Mask2FormerDetector)
    detector._model = model.to(GPU, DTYPE)
    detector._device, detector._dtype, detector._image_scale = GPU, DTYPE, mask2former.IMAGE_SCALE
    # Where a batch ends is the detector's own.
    detector._batch_size = 8
    classifier = object.__new__(colors.ColorClassifier)
    classifier._clip, classifier._batch_size = parts("ViT-L-14"), 64

    def logits_of(
        class_logits: torch.Tensor, mask_logits: torch.Tensor, **_: object
    ) -> list[object]:
        """Which instances there are depends on content."""
        assert {class_logits.device, mask_logits.device} == {GPU}
        return []

    def verdicts(images: list[Image.Image]) -> list[str]:
        with mock.patch.object(mask2former, "instances_from_logits", logits_of):
            for rows in detector._batches(images[:16]):
                some = [images[row] for row in rows]
                list(without_mode(detector._instances)(some, [0.3] * len(rows)))
        classifier._texts = {}
        return without_mode(classifier.classify)(images, ["cup"] * len(images))

    return verdicts


def preprocessed(encoder: Any, images: list[Image.Image]) -> torch.Tensor:
    """What an encoder of either kind takes, (B, 3, S, S) on the CPU."""
    return torch.stack([encoder.preprocess(image) for image in images])


def cosines(encoder: OpenClipParts | TransformersClipEncoder) -> Judge:
    """Of every image and its prompt."""

    def judge(images: list[Image.Image]) -> object:
        prompts = [f"prompt {i % 4}" for i in range(len(images))]
        return paired_cosines(encoder, prompts, preprocessed(encoder, images))

    return judge


def aesthetic() -> Judge:
    """The head on CLIP's embedding."""
    encoder = parts("ViT-L-14")
    head = frozen(AestheticHead(encoder.width).to(GPU))
    return lambda images: head(encoder.images(preprocessed(encoder, images))).tolist()


#: By name, what makes a judge of images.
JUDGES: Mapping[str, Callable[[], Judge]] = {
    "clipscore": lambda: cosines(parts("ViT-L-14")),
    "aesthetic": aesthetic,
    "pickscore": lambda: cosines(pickscore()),
    "hpsv21": lambda: cosines(hpsv21()),
    "imagereward": imagereward,
    "geneval": geneval,
}


@torch.no_grad()
def results(resolutions: Sequence[str]) -> list[dict[str, float]]:
    """By resolution, GB at the peak of each judge alone, its weights included."""
    peaks: list[dict[str, float]] = [{} for _ in resolutions]
    for name, build in JUDGES.items():
        # Some initialisers draw until what they see is right, which never is.
        with pretended() as seen, no_init_weights():
            judge = build()
            building = seen.peak
            for found, size in zip(peaks, map(int, resolutions), strict=True):
                images = [
                    Image.new("RGB", (size, size), (20 * i % 256, 0, 90)) for i in range(_IMAGES)
                ]
                seen.peak = seen.now
                judge(images)
                found[name] = max(building, seen.peak) / 1e9
    return peaks
