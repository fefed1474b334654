"""PickScore: a CLIP ViT-H/14 tuned on which of two images people picked (arXiv:2305.01569)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluators.clip import CLIP_CODE, CLIP_FILES, PROCESSOR_FILES
from evaluators.devices import torch_device, torch_dtype
from evaluators.preference.base import LoadedScorer, ScorerConfig
from evaluators.weights import PublishedWeights, resolve_directory

if TYPE_CHECKING:
    from torch import Tensor

_FILES = ("config.json", "model.safetensors")
_MODEL = PublishedWeights(
    repo="yuvalkirstain/PickScore_v1", files=_FILES, disk_gb=3.94, memory_gb=3.94
)
_PROCESSOR = PublishedWeights(
    repo="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    files=PROCESSOR_FILES,
    disk_gb=0.004,
    memory_gb=0.0,
)


@dataclass(frozen=True, kw_only=True)
class PickScoreConfig(ScorerConfig):
    """As in papers, about 22; training codes divide it by 26, others print the cosine (0.22).

    ``weights`` is a CLIP in transformers' layout.

    Attributes:
        processor: Hub id or directory of the image processor and tokenizer, which PickScore's
            own repository lacks; empty takes those beside the weights.
    """

    kind = "pickscore"
    title = "PickScore"
    summary = "human preference (Pick-a-Pic)"
    unit = "logit scale x cosine"
    value_range = (-100.0, 100.0)
    code = CLIP_CODE
    published = (_MODEL, _PROCESSOR)
    batch_gb = 0.70

    weights: str = _MODEL.repo
    processor: str = _PROCESSOR.repo

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The CLIP's, and the processor's."""
        return {"weights": CLIP_FILES, "processor": PROCESSOR_FILES}

    def load(self) -> LoadedScorer:
        """Find, check and load the CLIP and its processor."""
        from evaluators.clip.encoders import TransformersClipEncoder, clip_hash, paired_cosines

        directory = processor = resolve_directory(self.weights, CLIP_FILES)
        if self.processor:
            processor = resolve_directory(self.processor, PROCESSOR_FILES, key="processor")
        device, dtype = torch_device(self.device), torch_dtype(self.dtype)
        encoder = TransformersClipEncoder(
            directory, dtype=dtype, device=device, processor=processor
        )
        scale = encoder.logit_scale

        def values(prompts: Sequence[str], pixels: Tensor) -> list[float]:
            return [scale * cosine for cosine in paired_cosines(encoder, prompts, pixels)]

        digest = clip_hash(directory)
        if processor != directory:
            digest = f"{digest}+{clip_hash(processor)}"
        return LoadedScorer(values, encoder.preprocess, encoder.side, digest)
