"""HPS v2.1: an open_clip ViT-H/14 tuned on human preferences (arXiv:2306.09341)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from evaluators.base import ADDRESS
from evaluators.clip import CLIP_CODE
from evaluators.devices import torch_device, torch_dtype
from evaluators.preference.base import LoadedScorer, ScorerConfig
from evaluators.weights import PublishedWeights, WeightsError, combined_hash, resolve_file

if TYPE_CHECKING:
    from torch import Tensor

_MODEL = PublishedWeights(
    repo="xswu/HPSv2", files=("HPS_v2.1_compressed.pt",), disk_gb=1.97, memory_gb=3.94
)


@dataclass(frozen=True, kw_only=True)
class HpsConfig(ScorerConfig):
    """The cosine, about 0.28; others print 100 times that.

    ``weights`` is a file, a directory that holds ``weights_file``, or a hub id.

    Attributes:
        weights_file: Name of the checkpoint there.
        architecture: open_clip's name of the model, or a directory whose
            ``open_clip_config.json`` describes it.
    """

    kind = "hpsv21"
    title = "HPSv2.1"
    summary = "human preference (HPS v2.1)"
    unit = "cosine"
    decimals = 4
    value_range = (-1.0, 1.0)
    code = CLIP_CODE
    published = (_MODEL,)
    batch_gb = 0.52

    weights: str = _MODEL.repo
    weights_file: str = field(default=_MODEL.files[0], metadata=ADDRESS)
    architecture: str = "ViT-H-14"

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The checkpoint, and the description of its model where that is a directory."""
        return {"weights": (self.weights_file,), "architecture": ("*.json",)}

    def load(self) -> LoadedScorer:
        """Find, check and load the checkpoint."""
        from evaluators.clip.encoders import paired_cosines
        from evaluators.clip.open_clip_models import load_parts

        path, folder = resolve_file(self.weights, self.weights_file), Path(self.architecture)
        config = architecture_config(self.architecture)
        device, dtype = torch_device(self.device), torch_dtype(self.dtype)
        parts = load_parts(config, path, folder, dtype=dtype, device=device)
        values = functools.partial(paired_cosines, parts)
        # open_clip's own transform crops what is not square; HPS v2 was trained on whole images.
        preprocess = functools.partial(padded_square, size=parts.side)
        described = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return LoadedScorer(values, preprocess, parts.side, combined_hash([path, *described]))


def padded_square(image: Image.Image, size: int) -> Tensor:
    """HPS v2's own transform, to (3, size, size): the longest side fits, the rest is black.

    Source: tgxs002/HPSv2, open_clip/transform.py, ``resize_longest_max``.
    """
    import open_clip
    import torchvision.transforms.functional as transforms

    pixels = cast("Tensor", transforms.to_tensor(image))
    height, width = pixels.shape[1:]
    scale = size / max(height, width)
    # A side of no pixels cannot be resized to: 500 x 1 is padded from 32 x 1.
    new_size = [max(1, round(height * scale)), max(1, round(width * scale))]
    if new_size != [height, width]:
        # As published on the tensor and not on the PIL image: values may overshoot 0..1.
        mode = transforms.InterpolationMode.BICUBIC
        pixels = transforms.resize(pixels, new_size, mode, antialias=True)
    free_height, free_width = size - new_size[0], size - new_size[1]
    x, y = free_width // 2, free_height // 2
    padding = [x, y, free_width - x, free_height - y]
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return cast("Tensor", transforms.normalize(transforms.pad(pixels, padding), mean, std))


def architecture_config(architecture: str) -> dict[str, object]:
    """The open_clip config of a model's name or a directory; ``WeightsError`` if it is neither."""
    import open_clip

    from evaluators.clip.open_clip_models import read_config

    if Path(architecture).is_dir():
        return read_config(Path(architecture))
    model_cfg = open_clip.get_model_config(architecture)
    if model_cfg is None:
        raise WeightsError(
            f"architecture={architecture!r} is neither a directory nor a model of open_clip; "
            "HPS v2.1 is ViT-H-14"
        )
    return {"model_cfg": model_cfg}
