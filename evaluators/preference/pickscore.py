"""PickScore: a CLIP ViT-H/14 tuned on which of two images people picked (arXiv:2305.01569)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from PIL import Image

from evaluators.base import Canary
from evaluators.clip.encoders import (
    TransformersClipEncoder,
    clip_hash,
    find_clip,
    paired_cosines,
)
from evaluators.preference.base import PreferenceEvaluator, torch_device, torch_dtype
from evaluators.preference.config import PROCESSOR_FILES, PickScoreConfig
from evaluators.weights import resolve_directory


class PickScore:
    """The loaded scorer."""

    def __init__(self, encoder: TransformersClipEncoder, weights_hash: str) -> None:
        self.encoder = encoder
        self.weights_hash = weights_hash

    def values(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """logit_scale * cos(image, text)."""
        scale = self.encoder.logit_scale
        return [scale * cosine for cosine in paired_cosines(self.encoder, prompts, images)]


class PickScoreEvaluator(PreferenceEvaluator[PickScoreConfig]):
    """As in papers, about 22; training codes divide it by 26, others print the cosine (0.22).

    Args:
        config: Without one, PickScore v1.
        canaries: Take the place of the drawn ones.
    """

    name: ClassVar[str] = "pickscore"
    version: ClassVar[str] = "1"
    value_range: ClassVar[tuple[float, float]] = (-100.0, 100.0)
    unit: ClassVar[str] = "logit scale x cosine"

    def __init__(
        self, config: PickScoreConfig | None = None, canaries: Sequence[Canary] | None = None
    ) -> None:
        super().__init__(config or PickScoreConfig(), canaries)

    def load(self) -> PickScore:
        """Find, check and load the CLIP and its processor."""
        directory = find_clip(self.config.weights)
        processor = directory
        if self.config.processor:
            processor = resolve_directory(self.config.processor, PROCESSOR_FILES, key="processor")
        encoder = TransformersClipEncoder(
            directory,
            dtype=torch_dtype(self.config.dtype),
            device=torch_device(self.config.device),
            processor=processor,
        )
        return PickScore(encoder, clip_hash(directory))
