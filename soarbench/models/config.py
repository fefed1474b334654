"""What a model configuration says; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from baselines.config import LoraConfig
from soarbench.common.strict import ADDRESS

LABORATORY = "lab"
#: Where Flow-GRPO adapts Stable Diffusion 3: all of the attention's linear layers.
LORA_TARGETS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which SD3-architecture pipeline is post-trained, and how it is run.

    Attributes:
        name: Short name, in tables and tags.
        path: Hub id, a directory in diffusers' layout, or ``lab`` for the shipped laboratory.
        revision: Hub revision; null takes the default branch.
        resolution: Height and width of images, pixels.
        max_sequence_length: T5 tokens a prompt; 0 for a pipeline without a third text encoder.
        load_text_encoder_3: Whether the pipeline's T5 is loaded at all (SD3.5: optional).
        dtype: Of transformer and text encoders: float32, bfloat16 or float16. The VAE is always
            float32, as are noise, log-probabilities and losses.
        adapter: Published weights that are evaluated beside the base: hub id
            (``owner/name@revision``) or directory of a LoRA in peft's format or of a transformer.
    """

    name: str = field(metadata=ADDRESS)
    path: str = field(metadata=ADDRESS)
    resolution: int
    revision: str | None = field(default=None, metadata=ADDRESS)
    max_sequence_length: int = 256
    load_text_encoder_3: bool = True
    dtype: str = "float32"
    adapter: str | None = None

    def adapted(self, lora: LoraConfig) -> LoraConfig:
        """An adapter with its layers named: the family's own, unless it names others."""
        targets = lora.target_modules or LORA_TARGETS
        return replace(lora, target_modules=targets)

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"model.dtype={self.dtype!r}: must be one of {', '.join(_DTYPES)}")
        if self.resolution < 8:
            raise ValueError(f"model.resolution={self.resolution}: must be at least 8 pixels")
        if not 0 <= self.max_sequence_length <= 512:
            raise ValueError(
                f"model.max_sequence_length={self.max_sequence_length}: must be 0..512"
            )
