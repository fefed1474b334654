"""CLIPScore: how well an image fits its prompt, as the plain cosine of CLIP's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from PIL import Image

from evaluators.base import Canary
from evaluators.clip.encoders import (
    ClipEncoder,
    clip_hash,
    find_clip,
    load_clip,
    paired_cosines,
)
from evaluators.preference.base import PreferenceEvaluator, torch_device, torch_dtype
from evaluators.preference.config import ClipScoreConfig


class ClipScore:
    """The loaded scorer."""

    def __init__(self, encoder: ClipEncoder, weights_hash: str) -> None:
        self.encoder = encoder
        self.weights_hash = weights_hash

    def values(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """cos(image, text), in [-1, 1]."""
        return paired_cosines(self.encoder, prompts, images)


class ClipScoreEvaluator(PreferenceEvaluator[ClipScoreConfig]):
    """The cosine itself: others print 100 cos, or 2.5 max(cos, 0).

    Args:
        config: Without one, OpenAI's CLIP ViT-L/14.
        canaries: Take the place of the drawn ones.
    """

    name: ClassVar[str] = "clipscore"
    version: ClassVar[str] = "1"
    value_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    unit: ClassVar[str] = "cosine"

    def __init__(
        self, config: ClipScoreConfig | None = None, canaries: Sequence[Canary] | None = None
    ) -> None:
        super().__init__(config or ClipScoreConfig(), canaries)

    def load(self) -> ClipScore:
        """Find, check and load the CLIP."""
        directory = find_clip(self.config.weights)
        encoder = load_clip(
            directory,
            dtype=torch_dtype(self.config.dtype),
            device=torch_device(self.config.device),
        )
        return ClipScore(encoder, clip_hash(directory))
