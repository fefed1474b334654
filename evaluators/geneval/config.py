"""What GenEval on COCO's classes is configured with; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.preference.config import DTYPES
from evaluators.weights import PublishedWeights

DETECTOR_WEIGHTS = "facebook/mask2former-swin-small-coco-instance"
DETECTOR_FILES = ("config.json", "model.safetensors", "pytorch_model.bin")
#: OpenAI's CLIP ViT-L/14 in open_clip's format.
COLOR_WEIGHTS = "timm/vit_large_patch14_clip_224.openai"
COLOR_FILES = ("open_clip_config.json", "open_clip_model.safetensors")

#: What the two defaults download.
PUBLISHED = (
    PublishedWeights(repo=DETECTOR_WEIGHTS, files=DETECTOR_FILES, disk_gb=0.28, memory_gb=0.28),
    PublishedWeights(repo=COLOR_WEIGHTS, files=COLOR_FILES, disk_gb=1.71, memory_gb=1.71),
)


@dataclass(frozen=True, kw_only=True)
class GenEvalConfig:
    """GenEval's two models.

    Attributes:
        detector: Hub id or local folder of a Mask2Former for COCO instances, transformers' layout.
        color_model: Hub id or local folder of OpenAI's CLIP ViT-L/14, open_clip's layout.
        batch_size: Images a forward of the detector; None: 8 on a GPU and 1 on a CPU, where one
            image fills the cores and a larger batch spends its time on fresh memory.
        crop_batch_size: Objects a forward of the colour model.
        dtype: ``float32``, ``bfloat16`` or ``float16``: of the models' weights and arithmetic;
            masks, scores and similarities are computed in float32.
        device: ``auto`` (the first GPU, else the CPU), or a torch device.
    """

    detector: str = DETECTOR_WEIGHTS
    color_model: str = COLOR_WEIGHTS
    batch_size: int | None = None
    crop_batch_size: int = 64
    dtype: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("detector", "color_model"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: give a hub id (owner/name) or a local folder")
        for name in ("batch_size", "crop_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}: choose one of {', '.join(DTYPES)}")
