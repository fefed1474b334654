"""CLIPScore: the cosine of an image and its prompt."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from evaluators.clip import CLIP_CODE, CLIP_FILES, CLIP_L
from evaluators.devices import torch_device, torch_dtype
from evaluators.preference.base import LoadedScorer, ScorerConfig
from evaluators.weights import PublishedWeights, resolve_directory


@dataclass(frozen=True, kw_only=True)
class ClipScoreConfig(ScorerConfig):
    """The cosine itself, about 0.285 for SD3.5-M: others print 100 cos, or 2.5 max(cos, 0).

    ``weights`` is a CLIP in transformers' or open_clip's directory layout.
    """

    kind = "clipscore"
    title = "CLIPScore"
    summary = "agreement of image and prompt"
    unit = "cosine"
    # The published gap of SOAR and SFT is 0.003.
    decimals = 4
    value_range = (-1.0, 1.0)
    code: ClassVar[tuple[str, ...]] = CLIP_CODE
    published: ClassVar[tuple[PublishedWeights, ...]] = (CLIP_L,)
    batch_gb = 0.44

    weights: str = CLIP_L.repo

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The CLIP's."""
        return {"weights": CLIP_FILES}

    def load(self) -> LoadedScorer:
        """Find, check and load the CLIP."""
        from evaluators.clip.encoders import clip_hash, load_clip, paired_cosines

        directory = resolve_directory(self.weights, CLIP_FILES)
        device, dtype = torch_device(self.device), torch_dtype(self.dtype)
        encoder = load_clip(directory, dtype=dtype, device=device)
        values = functools.partial(paired_cosines, encoder)
        return LoadedScorer(values, encoder.preprocess, encoder.side, clip_hash(directory))
