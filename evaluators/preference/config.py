"""What the preference scorers are configured with; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evaluators.weights import PublishedWeights

DTYPES = ("float32", "bfloat16", "float16")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt",
    "special_tokens_map.json",
)  # fmt: skip
#: An image processor and a tokenizer in transformers' layout.
PROCESSOR_FILES = ("preprocessor_config.json", *TOKENIZER_FILES)
#: A CLIP on the hub, in transformers' layout or open_clip's.
CLIP_FILES = (
    "open_clip_config.json", "open_clip_model.safetensors", "config.json", "model.safetensors",
    *PROCESSOR_FILES,
)  # fmt: skip
_CLIP_L = PublishedWeights(
    repo="openai/clip-vit-large-patch14", files=CLIP_FILES, disk_gb=1.71, memory_gb=1.71
)


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """A scorer that runs here.

    Attributes:
        weights: Hub id (``owner/name``, ``owner/name@revision``) or local path.
        batch_size: Images at a time.
        dtype: ``float32``, ``bfloat16`` or ``float16``: of the model's weights and arithmetic;
            the score itself is computed in float32.
        device: ``auto`` (the first GPU, else the CPU), or a torch device.
    """

    weights: str
    batch_size: int = 32
    dtype: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not self.weights:
            raise ValueError("weights is empty: give a hub id (owner/name) or a local path")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}: choose one of {', '.join(DTYPES)}")


@dataclass(frozen=True, kw_only=True)
class ClipScoreConfig(ScorerConfig):
    """``weights`` is a CLIP in transformers' or open_clip's directory layout."""

    weights: str = "openai/clip-vit-large-patch14"


@dataclass(frozen=True, kw_only=True)
class AestheticConfig(ScorerConfig):
    """``weights`` is the CLIP whose image embedding is rated.

    Attributes:
        head: The rating head: a file, a directory that holds ``head_file``, or a hub id.
        head_file: Its file name there.
    """

    weights: str = "openai/clip-vit-large-patch14"
    head: str = "camenduru/improved-aesthetic-predictor"
    head_file: str = "sac+logos+ava1-l14-linearMSE.pth"


@dataclass(frozen=True, kw_only=True)
class PickScoreConfig(ScorerConfig):
    """``weights`` is a CLIP in transformers' layout.

    Attributes:
        processor: Hub id or directory of the image processor and tokenizer, which PickScore's
            own repository lacks; empty takes those beside the weights.
    """

    weights: str = "yuvalkirstain/PickScore_v1"
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@dataclass(frozen=True, kw_only=True)
class HpsConfig(ScorerConfig):
    """``weights`` is a file, a directory that holds ``weights_file``, or a hub id.

    Attributes:
        weights_file: Name of the checkpoint there.
        architecture: open_clip's name of the model, or a directory whose
            ``open_clip_config.json`` describes it.
    """

    weights: str = "xswu/HPSv2"
    weights_file: str = "HPS_v2.1_compressed.pt"
    architecture: str = "ViT-H-14"


@dataclass(frozen=True, kw_only=True)
class ImageRewardConfig(ScorerConfig):
    """``weights`` is a file, a directory that holds ``weights_file``, or a hub id.

    Attributes:
        weights_file: Name of the checkpoint there.
        tokenizer: Hub id or directory of BERT's tokenizer.
    """

    weights: str = "THUDM/ImageReward"
    weights_file: str = "ImageReward.pt"
    tokenizer: str = "google-bert/bert-base-uncased"


@dataclass(frozen=True, kw_only=True)
class UnifiedRewardConfig:
    """A judge behind an OpenAI-compatible server.

    Attributes:
        base_url: Up to and with ``/v1``.
        model: The name under which the server offers it.
        api_key_env: Environment variable that holds the key; unset sends none.
        concurrency: Requests under way at once.
        timeout_seconds: For one request.
        max_retries: Further tries after a failed one that may pass (no answer, 408, 429, 5xx).
        backoff_seconds: Wait before the first further try; doubles each time, at most 60.
        image_size: Side of the square the image is resized to, pixels (Flow-GRPO: 512).
    """

    base_url: str = "http://127.0.0.1:8080/v1"
    model: str = "UnifiedReward-7b-v1.5"
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout_seconds: float = 120.0
    max_retries: int = 5
    backoff_seconds: float = 1.0
    image_size: int = 512

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={self.base_url!r}: must start with http:// or https://")
        for name in ("concurrency", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds={self.timeout_seconds}: must be above 0")
        for name in ("max_retries", "backoff_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")


#: What the published configurations above download, by evaluator.
PUBLISHED: Mapping[str, tuple[PublishedWeights, ...]] = {
    "clipscore": (_CLIP_L,),
    "aesthetic": (
        _CLIP_L,
        PublishedWeights(
            repo="camenduru/improved-aesthetic-predictor",
            files=("sac+logos+ava1-l14-linearMSE.pth",),
            disk_gb=0.004,
            memory_gb=0.004,
            sha256=(
                (
                    "sac+logos+ava1-l14-linearMSE.pth",
                    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
                ),
            ),
        ),
    ),
    "pickscore": (
        PublishedWeights(
            repo="yuvalkirstain/PickScore_v1",
            files=("config.json", "model.safetensors"),
            disk_gb=3.94,
            memory_gb=3.94,
        ),
        PublishedWeights(
            repo="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            files=PROCESSOR_FILES,
            disk_gb=0.004,
            memory_gb=0.0,
        ),
    ),
    "hpsv21": (
        PublishedWeights(
            repo="xswu/HPSv2", files=("HPS_v2.1_compressed.pt",), disk_gb=1.97, memory_gb=3.94
        ),
    ),
    "imagereward": (
        PublishedWeights(
            repo="THUDM/ImageReward", files=("ImageReward.pt",), disk_gb=1.79, memory_gb=1.79
        ),
        PublishedWeights(
            repo="google-bert/bert-base-uncased",
            files=TOKENIZER_FILES,
            disk_gb=0.001,
            memory_gb=0.0,
        ),
    ),
}
