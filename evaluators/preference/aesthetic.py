"""The LAION aesthetic predictor: a small MLP on the unit CLIP image embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluators.base import Canary, Sample
from evaluators.clip.encoders import ClipEncoder, clip_hash, find_clip, load_clip
from evaluators.clip.open_clip_models import load_strictly, load_tensors
from evaluators.preference.base import PreferenceEvaluator, torch_device, torch_dtype
from evaluators.preference.config import AestheticConfig
from evaluators.weights import WeightsError, combined_hash, resolve_file

#: File name of a head saved here.
HEAD_FILE = "aesthetic_head.safetensors"


class AestheticHead(nn.Module):
    """Linear D-1024-128-64-16-1 without activations, dropout in training.

    The names of its parameters (``layers.0.weight`` ...) are those of the published file.

    Args:
        embedding_width: Size D of the embeddings.

    Source: christophschuhmann/improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE.pth.
    """

    def __init__(self, embedding_width: int = 768) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embedding_width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Ratings (B,), about 1..10, of unit embeddings (B, D)."""
        return cast(Tensor, self.layers(embedding)).squeeze(-1)


def save_head(path: Path, head: AestheticHead) -> None:
    """Write a head as safetensors."""
    state = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})


def load_head(path: Path, embedding_width: int) -> AestheticHead:
    """Read a head of the published keys.

    Args:
        path: ``.pth`` or safetensors.
        embedding_width: Size of the CLIP's embeddings.

    Returns:
        The head, ready to rate.

    Raises:
        WeightsError: It is unreadable or rates embeddings of another width.
    """
    state = load_tensors(path)
    first = state.get("layers.0.weight")
    if first is not None and first.shape[-1] != embedding_width:
        raise WeightsError(
            f"aesthetic head {path} rates embeddings of width {first.shape[-1]}, but the CLIP "
            f"gives {embedding_width}; use the pair that belongs together"
        )
    head = AestheticHead(embedding_width)
    load_strictly(head, state, path)
    return head.eval().requires_grad_(False)


class Aesthetic:
    """The loaded scorer."""

    def __init__(self, encoder: ClipEncoder, head: AestheticHead, weights_hash: str) -> None:
        self.encoder = encoder
        self.head = head
        self.weights_hash = weights_hash

    def values(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """The ratings of the images; prompts do not matter."""
        assert len(prompts) == len(images)
        embeddings = self.encoder.images(images)
        weight = next(self.head.parameters())
        ratings = self.head(embeddings.to(weight.device, weight.dtype))
        return cast(list[float], ratings.float().tolist())


class AestheticEvaluator(PreferenceEvaluator[AestheticConfig]):
    """The predicted rating of people who were asked how good a picture looks.

    Args:
        config: Without one, the LAION head on OpenAI's CLIP ViT-L/14.
        canaries: Take the place of the drawn ones.
    """

    name: ClassVar[str] = "aesthetic"
    version: ClassVar[str] = "1"
    value_range: ClassVar[tuple[float, float]] = (1.0, 10.0)
    unit: ClassVar[str] = "rating, 1..10"

    def __init__(
        self, config: AestheticConfig | None = None, canaries: Sequence[Canary] | None = None
    ) -> None:
        super().__init__(config or AestheticConfig(), canaries)

    def load(self) -> Aesthetic:
        """Find, check and load the CLIP and the head."""
        directory = find_clip(self.config.weights)
        path = resolve_file(self.config.head, self.config.head_file, key="head")
        device = torch_device(self.config.device)
        encoder = load_clip(directory, dtype=torch_dtype(self.config.dtype), device=device)
        # The head is tiny and sensitive: float32 whatever the CLIP runs in.
        head = load_head(path, encoder.width).to(device)
        return Aesthetic(encoder, head, f"{clip_hash(directory)}+{combined_hash([path])}")

    def drawn_canaries(self) -> Sequence[Canary]:
        """A calm evening by the sea against grey noise."""
        pictures = {"sunset": _sunset(), "noise": _noise()}
        good, bad = (
            Sample(sample_id=f"canary/aesthetic/{name}", prompt_id=name, prompt=name, image=image)
            for name, image in pictures.items()
        )
        return (Canary(good=good, bad=bad),)


def _sunset(size: int = 512) -> Image.Image:
    """A sky fading from blue to orange over a darker sea, with the sun and its reflection."""
    height = torch.linspace(0, 1, size)[:, None]
    high, low = torch.tensor([58.0, 84.0, 150.0]), torch.tensor([255.0, 168.0, 92.0])
    sky = high + (low - high) * (height / 0.6).clamp(max=1) ** 1.5
    sea = torch.tensor([40.0, 60.0, 110.0]) * (1.3 - height)
    rows = torch.where(height < 0.6, sky, sea)
    pixels = rows[:, None, :].expand(size, size, 3).round().to(torch.uint8).contiguous()
    image = Image.fromarray(pixels.numpy())
    draw = ImageDraw.Draw(image)
    x, y, radius = size // 2, int(0.5 * size), size // 12
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 236, 190))
    for step in range(8):
        top, half = int((0.63 + 0.04 * step) * size), radius - 4 * step
        draw.rectangle((x - half, top, x + half, top + size // 128), fill=(250, 190, 130))
    return image


def _noise(size: int = 512) -> Image.Image:
    """Grey noise: nothing that anybody would call a picture."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.normal(110, 60, (size, size)).clip(0, 255).astype(np.uint8))
