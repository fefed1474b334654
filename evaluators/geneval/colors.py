"""Which colour is an object? CLIP compares its cut-out with the words, as GenEval does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from evaluators.clip.open_clip_models import (
    CONFIG_FILE,
    OpenClipParts,
    build_open_clip,
    embed_images,
    embed_texts,
    image_preprocess,
    load_strictly,
    load_tensors,
    read_config,
    tokenizer_of,
    weight_file,
)
from evaluators.geneval.config import COLOR_FILES
from evaluators.geneval.prompts import COLORS
from evaluators.weights import combined_hash, resolve_directory

TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
BACKGROUND = "#999"


def object_crop(image: Image.Image, mask: Tensor, box: Sequence[float]) -> Image.Image:
    """Cut an object out: its pixels on grey (#999), cropped to its box.

    Args:
        image: RGB.
        mask: (H, W) bool, the image's size.
        box: x1, y1, x2, y2 in pixels, within the image.
    """
    x1, y1, x2, y2 = (round(edge) for edge in box)
    stencil = Image.fromarray(mask[y1:y2, x1:x2].cpu().numpy())
    ground = Image.new("RGB", stencil.size, BACKGROUND)
    return Image.composite(image.crop((x1, y1, x2, y2)), ground, stencil)


class ColorClassifier:
    """Zero-shot colour by CLIP: the crop's nearest text, averaged over three templates.

    Each class has its own texts; crops of any classes and images share a batch.
    """

    def __init__(
        self,
        weights: str,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 64,
        color_names: Sequence[str] = COLORS,
    ) -> None:
        """Load the model.

        Args:
            weights: Hub id or local folder of OpenAI's CLIP in open_clip's layout.
            device: Where it runs.
            dtype: Precision of weights and activations; similarities are computed in float32.
            batch_size: Crops a forward.
            color_names: The colours to choose from.

        Raises:
            WeightsError: The weights are missing or do not fit.
        """
        directory = resolve_directory(weights, COLOR_FILES, key="color_model")
        self._clip = _load_clip(directory)
        self._clip.model.to(device=device, dtype=dtype)
        self.weights_hash = combined_hash([directory / CONFIG_FILE, weight_file(directory)])
        self._batch_size = batch_size
        self.color_names = tuple(color_names)
        self._texts: dict[str, Tensor] = {}

    @torch.inference_mode()
    def classify(self, crops: Sequence[Image.Image], class_names: Sequence[str]) -> list[str]:
        """Name the colour of each crop.

        Args:
            crops: Objects on grey, from ``object_crop``.
            class_names: What each crop shows.

        Returns:
            A colour a crop, in order.
        """
        colors: list[str] = []
        for start in range(0, len(crops), self._batch_size):
            batch = slice(start, start + self._batch_size)
            images = embed_images(self._clip, crops[batch])
            texts = torch.stack([self._text_features(name) for name in class_names[batch]])
            best = torch.einsum("bd,bcd->bc", images, texts).argmax(1)
            colors += [self.color_names[i] for i in best.tolist()]
        return colors

    def _text_features(self, name: str) -> Tensor:
        """Mean text vector of every colour of a class, (colours, D) float32, unit length."""
        if name not in self._texts:
            texts = [t.format(color=c, name=name) for c in self.color_names for t in TEMPLATES]
            by_color = embed_texts(self._clip, texts).view(
                len(self.color_names), len(TEMPLATES), -1
            )
            self._texts[name] = normalize(by_color.mean(1), dim=-1)
        return self._texts[name]


def _load_clip(directory: Path) -> OpenClipParts:
    """OpenAI's CLIP from a folder in open_clip's layout, on the CPU in float32.

    The activation is set to QuickGELU whatever the folder says: OpenAI's models need it, and
    nothing but worse answers shows that it is missing.
    """
    config = read_config(directory)
    model_config = config.get("model_cfg")
    if isinstance(model_config, dict):
        config["model_cfg"] = {**model_config, "quick_gelu": True}
    model = build_open_clip(config)
    load_strictly(model, load_tensors(weight_file(directory)), directory)
    model.eval().requires_grad_(requires_grad=False)
    return OpenClipParts(model, image_preprocess(config), tokenizer_of(config, directory))
