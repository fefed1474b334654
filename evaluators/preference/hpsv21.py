"""HPS v2.1: an open_clip ViT-H/14 tuned on human preferences (arXiv:2306.09341)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

import open_clip
import torchvision.transforms.functional as transforms
from PIL import Image
from torch import Tensor

from evaluators.base import Canary
from evaluators.clip.encoders import OpenClipEncoder, paired_cosines
from evaluators.clip.open_clip_models import (
    OpenClipParts,
    Preprocess,
    build_open_clip,
    load_strictly,
    load_tensors,
    read_config,
    tokenizer_of,
)
from evaluators.preference.base import PreferenceEvaluator, torch_device, torch_dtype
from evaluators.preference.config import HpsConfig
from evaluators.weights import WeightsError, combined_hash, resolve_file

_MEAN, _STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def padded_square(image: Image.Image, size: int) -> Tensor:
    """HPS v2's own transform: the longest side to ``size``, the rest padded with black.

    The resize works on the tensor, not on the PIL image, and is bicubic with antialiasing, as
    torchvision does it today; values may overshoot 0..1 before they are normalised.

    Args:
        image: RGB.
        size: Side of the square, pixels.

    Returns:
        Normalised pixels; (3, size, size).

    Source: tgxs002/HPSv2, open_clip/transform.py, ``resize_longest_max``.
    """
    pixels = cast(Tensor, transforms.to_tensor(image))
    height, width = pixels.shape[1:]
    scale = size / max(height, width)
    new_size = [max(1, round(height * scale)), max(1, round(width * scale))]
    if new_size != [height, width]:
        mode = transforms.InterpolationMode.BICUBIC
        pixels = transforms.resize(pixels, new_size, mode, antialias=True)
    free_height, free_width = size - new_size[0], size - new_size[1]
    left, top = free_width // 2, free_height // 2
    padding = [left, top, free_width - left, free_height - top]
    return cast(Tensor, transforms.normalize(transforms.pad(pixels, padding), _MEAN, _STD))


def architecture_config(architecture: str) -> dict[str, object]:
    """The open_clip config that a name or a directory stands for.

    Args:
        architecture: open_clip's name of a model, or a directory with an ``open_clip_config.json``.

    Returns:
        A mapping with ``model_cfg``.

    Raises:
        WeightsError: It is neither.
    """
    if Path(architecture).is_dir():
        return read_config(Path(architecture))
    model_cfg = open_clip.get_model_config(architecture)
    if model_cfg is None:
        raise WeightsError(
            f"architecture={architecture!r} is neither a directory nor a model of open_clip; "
            "HPS v2.1 is ViT-H-14"
        )
    return {"model_cfg": model_cfg}


class Hps:
    """The loaded scorer."""

    def __init__(self, encoder: OpenClipEncoder, weights_hash: str) -> None:
        self.encoder = encoder
        self.weights_hash = weights_hash

    def values(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """cos(image, text)."""
        return paired_cosines(self.encoder, prompts, images)


class HpsV21Evaluator(PreferenceEvaluator[HpsConfig]):
    """The cosine, about 0.28; others print 100 times that.

    Args:
        config: Without one, HPS v2.1.
        canaries: Take the place of the drawn ones.
    """

    name: ClassVar[str] = "hpsv21"
    version: ClassVar[str] = "1"
    value_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    unit: ClassVar[str] = "cosine"

    def __init__(
        self, config: HpsConfig | None = None, canaries: Sequence[Canary] | None = None
    ) -> None:
        super().__init__(config or HpsConfig(), canaries)

    def load(self) -> Hps:
        """Find, check and load the checkpoint."""
        path = resolve_file(self.config.weights, self.config.weights_file)
        config = architecture_config(self.config.architecture)
        model = build_open_clip(config)
        load_strictly(model, load_tensors(path), path)
        model.eval().requires_grad_(False)
        model.to(device=torch_device(self.config.device), dtype=torch_dtype(self.config.dtype))
        tokenizer = tokenizer_of(config, Path(self.config.architecture))
        parts = OpenClipParts(model, _square_transform(model), tokenizer)
        return Hps(OpenClipEncoder(parts), combined_hash([path]))


def _square_transform(model: open_clip.CLIP) -> Preprocess:
    size = model.visual.image_size
    side = int(size if isinstance(size, int) else size[0])
    return lambda image: padded_square(image, side)
