"""Stable Diffusion 3 and 3.5: where a pipeline lies and how it is run; imports no framework."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import ClassVar

from typing_extensions import override

from soarbench.common.files import parts_digest
from soarbench.common.strict import ADDRESS
from soarbench.models.pipeline_config import PipelineConfig
from soarbench.models.sd3.architecture import Sd3Architecture, architecture_of


@dataclass(frozen=True, kw_only=True)
class Sd3Config(PipelineConfig):
    """A pipeline of Stable Diffusion 3's architecture.

    Attributes:
        load_text_encoder_3: Whether the pipeline's T5 is loaded at all (SD3.5: optional).
        vae_channels_last: Whether the autoencoder keeps channels last in memory, for which GPUs may
            have faster convolutions; latents and images differ in the last bits.
    """

    kind: ClassVar[str] = "sd3"
    # Where Flow-GRPO adapts it: the linear layers of the joint attention. Those of SD3.5-M's second
    # attention, ``attn2``, it leaves alone.
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    transformer_class: ClassVar[str] = "SD3Transformer2DModel"
    pipeline_class: ClassVar[str] = "StableDiffusion3Pipeline"
    model_class: ClassVar[str] = "soarbench.models.sd3.model:SD3Model"

    # Without T5 there is none that takes long prompts.
    least_sequence_length: ClassVar[int] = 0

    load_text_encoder_3: bool = True
    # ``weights_digest`` says where it is on, so that addresses older than it stay as they are.
    vae_channels_last: bool = field(default=False, metadata=ADDRESS)

    @property
    @override
    def unused_parts(self) -> Set[str]:
        t5 = () if self.load_text_encoder_3 else ("text_encoder_3", "tokenizer_3")
        return {"image_encoder", "feature_extractor", *t5}

    @override
    def architecture(self) -> Sd3Architecture:
        return architecture_of(self.source())

    @override
    def weights_digest(self) -> str:
        digest = super().weights_digest()
        return f"{digest}+vae_channels_last" if self.vae_channels_last else digest

    @override
    def encoder_digest(self) -> str:
        weights = self._encoder_weights()
        return parts_digest(weights, self.max_sequence_length, self.load_text_encoder_3, self.dtype)

    @override
    def text_facts(self) -> dict[str, object]:
        facts = super().text_facts()
        return facts | ({"load_text_encoder_3": self.load_text_encoder_3} if facts else {})
