"""Which colour is an object? CLIP compares its cut-out with the words, as GenEval does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from evaluators.batches import at_once
from evaluators.clip import USUAL_INPUT
from evaluators.clip.open_clip_models import CONFIG_FILE, load_parts, read_config, weight_file
from evaluators.geneval.config import COLOR_FILES
from evaluators.geneval.prompts import COLORS
from evaluators.images import in_threads
from evaluators.weights import combined_hash, resolve_directory

#: GenEval's, word by word.
TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
BACKGROUND = "#999"


def object_crop(image: Image.Image, mask: Tensor, box: Sequence[float]) -> Image.Image:
    """An object's pixels, by its mask (H, W), on grey, cropped to its box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = (round(edge) for edge in box)
    # Cropped before it is composed, which gives the same pixels for less work.
    stencil = Image.fromarray(mask[y1:y2, x1:x2].cpu().numpy())
    ground = Image.new("RGB", stencil.size, BACKGROUND)
    return Image.composite(image.crop((x1, y1, x2, y2)), ground, stencil)


class ColorClassifier:
    """Zero-shot colour by CLIP: the crop's nearest text, averaged over three templates."""

    def __init__(
        self,
        weights: str,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 64,
    ) -> None:
        """Load OpenAI's CLIP in open_clip's layout; ``WeightsError`` where it cannot be."""
        directory = resolve_directory(weights, COLOR_FILES, key="color_model")
        config, path = read_config(directory), weight_file(directory)
        # OpenAI's models need QuickGELU whatever the folder says, and nothing but worse answers
        # shows that it is missing.
        if isinstance(model_cfg := config.get("model_cfg"), dict):
            model_cfg["quick_gelu"] = True
        self._clip = load_parts(config, path, directory, dtype=dtype, device=device)
        self.weights_hash = combined_hash([directory / CONFIG_FILE, path])
        self._batch_size = batch_size
        self._texts: dict[str, Tensor] = {}

    @torch.inference_mode()
    def classify(self, crops: Sequence[Image.Image], class_names: Sequence[str]) -> list[str]:
        """The colour of each crop by ``object_crop``, whose class is known."""
        colors: list[str] = []
        # Crops of all classes and images share batches, each beside the texts of its class. The
        # public code starts a loader for each image; it judges at 1 / 2.6 of this speed.
        size = at_once(self._batch_size, self._clip.side**2, usual=USUAL_INPUT)
        for start in range(0, len(crops), size):
            batch = slice(start, start + size)
            pixels = torch.stack(list(in_threads(self._clip.preprocess, crops[batch], ahead=size)))
            images = self._clip.images(pixels)
            texts = torch.stack([self._text_features(name) for name in class_names[batch]])
            best = torch.einsum("bd,bcd->bc", images, texts).argmax(1)
            colors += [COLORS[i] for i in best.tolist()]
        return colors

    def _text_features(self, name: str) -> Tensor:
        """Mean text vector of every colour of a class: (colours, D) float32, unit length."""
        if name not in self._texts:
            texts = [t.format(color=c, name=name) for c in COLORS for t in TEMPLATES]
            by_color = self._clip.texts(texts).view(len(COLORS), len(TEMPLATES), -1)
            self._texts[name] = normalize(by_color.mean(1), dim=-1)
        return self._texts[name]
