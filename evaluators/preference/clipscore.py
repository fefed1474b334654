"""CLIPScore: the cosine of an image and its prompt."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, cast, get_args

from PIL import Image

from evaluators.base import ADDRESS_IF_SET
from evaluators.clip import CLIP_CODE, CLIP_FILES, CLIP_L
from evaluators.devices import torch_device, torch_dtype
from evaluators.preference.base import LoadedScorer, ScorerConfig
from evaluators.weights import PublishedWeights, resolve_directory

if TYPE_CHECKING:
    from torch import Tensor

Transform = Literal["own", "published"]


@dataclass(frozen=True, kw_only=True)
class ClipScoreConfig(ScorerConfig):
    """The cosine itself, about 0.285 for SD3.5-M: others print 100 cos, or 2.5 max(cos, 0).

    ``weights`` is a CLIP in transformers' or open_clip's directory layout.

    Attributes:
        transform: How an image becomes what the CLIP takes: ``own`` is what its files say (Pillow's
            bicubic resize of 8 bits, as CLIP was trained), ``published`` what HY-SOAR and Flow-GRPO
            score by (bilinear on floats).
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
    transform: Transform = field(default="own", metadata=ADDRESS_IF_SET)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transform not in get_args(Transform):
            raise ValueError(
                f"transform={self.transform!r}: choose {' or '.join(get_args(Transform))}"
            )

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
        preprocess = encoder.preprocess
        if self.transform == "published":
            preprocess = functools.partial(float_square, side=encoder.side)
        return LoadedScorer(values, preprocess, encoder.side, clip_hash(directory))


def float_square(image: Image.Image, side: int) -> Tensor:
    """An RGB image's middle on a scale of 0..1, resized bilinearly and normalised: (3, S, S).

    Source: yifan123/flow_grpo, clip_scorer.py, torchvision's ``Resize`` of float tensors.
    """
    import open_clip
    import torchvision.transforms.functional as transforms

    pixels = transforms.resize(transforms.to_tensor(image), [side], antialias=True)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return cast("Tensor", transforms.normalize(transforms.center_crop(pixels, [side]), mean, std))
