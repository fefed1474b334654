"""The LAION aesthetic predictor: a small MLP on the unit CLIP image embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw

from evaluators.base import ADDRESS, Canary, Sample
from evaluators.clip import CLIP_CODE, CLIP_FILES, CLIP_L
from evaluators.devices import torch_device, torch_dtype
from evaluators.preference.base import LoadedScorer, ScorerConfig
from evaluators.weights import PublishedWeights, combined_hash, resolve_directory, resolve_file

_HEAD_FILE = "sac+logos+ava1-l14-linearMSE.pth"
_HEAD = PublishedWeights(
    repo="camenduru/improved-aesthetic-predictor",
    files=(_HEAD_FILE,),
    disk_gb=0.004,
    memory_gb=0.004,
    sha256=((_HEAD_FILE, "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"),),
)


@dataclass(frozen=True, kw_only=True)
class AestheticConfig(ScorerConfig):
    """The predicted rating of people who were asked how good a picture looks.

    ``weights`` is the CLIP whose image embedding is rated.

    Attributes:
        head: The rating head: a file, a directory that holds ``head_file``, or a hub id.
        head_file: Its file name there.
    """

    kind = "aesthetic"
    title = "Aesthetic"
    summary = "how good the image looks"
    unit = "rating, 1..10"
    value_range = (1.0, 10.0)
    code: ClassVar[tuple[str, ...]] = (*CLIP_CODE, "evaluators.preference.rating_head")
    published: ClassVar[tuple[PublishedWeights, ...]] = (CLIP_L, _HEAD)
    batch_gb = 0.44

    weights: str = CLIP_L.repo
    head: str = _HEAD.repo
    head_file: str = field(default=_HEAD_FILE, metadata=ADDRESS)

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The CLIP's, and the head."""
        return {"weights": CLIP_FILES, "head": (self.head_file,)}

    def load(self) -> LoadedScorer:
        """Find, check and load the CLIP and the head."""
        from evaluators.clip.encoders import clip_hash, load_clip
        from evaluators.preference.rating_head import load_head

        directory = resolve_directory(self.weights, CLIP_FILES)
        path = resolve_file(self.head, self.head_file, key="head")
        device, dtype = torch_device(self.device), torch_dtype(self.dtype)
        encoder = load_clip(directory, dtype=dtype, device=device)
        # The head is tiny and sensitive: float32 whatever the CLIP runs in.
        head = load_head(path, encoder.width).to(device)
        return LoadedScorer(
            lambda _, pixels: head(encoder.images(pixels)).tolist(),
            encoder.preprocess,
            encoder.side,
            f"{clip_hash(directory)}+{combined_hash([path])}",
        )

    def canaries(self) -> Sequence[Canary]:
        """A calm evening by the sea against grey noise."""
        # Shapes under right and wrong prompts would not do: this judge never sees the prompt.
        good = Sample.drawn("canary/aesthetic/sunset", "sunset", _sunset())
        grey = np.random.default_rng(0).normal(110, 60, (512, 512)).clip(0, 255).astype(np.uint8)
        bad = Sample.drawn("canary/aesthetic/noise", "noise", Image.fromarray(grey))
        return (Canary(good=good, bad=bad),)


def _sunset(size: int = 512) -> Image.Image:
    """A sky fading from blue to orange over a darker sea, with the sun and its reflection."""
    import torch

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
