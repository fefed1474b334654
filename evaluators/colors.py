"""Which colour is an object? CLIP compares its cut-out with the words, as GenEval does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from evaluators.base import EvaluatorError
from evaluators.geneval_prompts import COLORS

#: OpenAI's ViT-L/14 in open_clip's format.
DEFAULT_WEIGHTS = "timm/vit_large_patch14_clip_224.openai"
#: Architecture of a weights file that comes without a configuration.
FILE_ARCHITECTURE = "ViT-L-14"
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


def module_hash(module: nn.Module) -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class ColorClassifier:
    """Zero-shot colour by CLIP: the crop's nearest text, averaged over three templates.

    Each class has its own texts; crops of any classes and images share a batch.
    """

    def __init__(
        self,
        weights: str = DEFAULT_WEIGHTS,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 64,
        quick_gelu: bool = True,
        color_names: Sequence[str] = COLORS,
    ) -> None:
        """Load the model.

        Args:
            weights: Hub id or local folder in open_clip's format, or a file of ViT-L/14 weights.
            device: Where it runs.
            dtype: Precision of weights and activations; similarities are computed in float32.
            batch_size: Crops a forward.
            quick_gelu: OpenAI's models need QuickGELU, which a bare weights file does not say.
            color_names: The colours to choose from.

        Raises:
            EvaluatorError: The weights are missing or do not fit.
        """
        self._model, self._preprocess, self._tokenizer = _load_clip(weights, quick_gelu=quick_gelu)
        self.weights_hash = module_hash(self._model)
        self._model.requires_grad_(requires_grad=False).eval().to(device=device, dtype=dtype)
        self._device, self._dtype = torch.device(device), dtype
        self._batch_size = batch_size
        self.color_names = tuple(color_names)
        self._texts: dict[str, Tensor] = {}

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
            images = self._image_features(crops[batch])
            texts = torch.stack([self._text_features(name) for name in class_names[batch]])
            best = torch.einsum("bd,bcd->bc", images, texts).argmax(1)
            colors += [self.color_names[i] for i in best.tolist()]
        return colors

    @torch.inference_mode()
    def _image_features(self, crops: Sequence[Image.Image]) -> Tensor:
        """Unit vectors, (B, D) float32."""
        pixels = torch.stack([self._preprocess(crop) for crop in crops])
        features = self._model.encode_image(pixels.to(self._device, self._dtype))
        return normalize(features.float(), dim=-1)

    @torch.inference_mode()
    def _text_features(self, name: str) -> Tensor:
        """Mean text vector of every colour of a class, (colours, D) float32, unit length."""
        if name not in self._texts:
            texts = [t.format(color=c, name=name) for c in self.color_names for t in TEMPLATES]
            features = self._model.encode_text(self._tokenizer(texts).to(self._device))
            units = normalize(features.float(), dim=-1)
            by_color = units.view(len(self.color_names), len(TEMPLATES), -1)
            self._texts[name] = normalize(by_color.mean(1), dim=-1)
        return self._texts[name]


def _load_clip(
    weights: str, *, quick_gelu: bool
) -> tuple[open_clip.CLIP, Callable[[Image.Image], Tensor], Callable[[list[str]], Tensor]]:
    """Model on the CPU in float32, image transform and tokenizer."""
    name, pretrained = _clip_source(weights)
    try:
        model, preprocess = open_clip.create_model_from_pretrained(
            name, pretrained=pretrained, force_quick_gelu=quick_gelu
        )
        tokenizer = open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise EvaluatorError(
            f"cannot load colour classifier {weights!r}: {first_line}. Give weights= a local "
            "folder in open_clip's format, or fetch them: python -m soarbench fetch geneval"
        ) from error
    return model, preprocess, tokenizer


def _clip_source(weights: str) -> tuple[str, str | None]:
    """open_clip's model name and weights for a hub id, folder or file."""
    path = Path(weights)
    if path.is_dir():
        return f"local-dir:{path}", None
    if path.is_file():
        return FILE_ARCHITECTURE, str(path)
    return f"hf-hub:{weights}", None
