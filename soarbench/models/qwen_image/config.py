"""Qwen-Image: where a pipeline lies and how it is run; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.models.pipeline_config import PipelineConfig
from soarbench.models.qwen_image.architecture import QwenImageArchitecture, architecture_of


@dataclass(frozen=True, kw_only=True)
class QwenImageConfig(PipelineConfig):
    """A pipeline of Qwen-Image's architecture.

    Guidance is what its pipeline calls ``true_cfg_scale``.
    """

    kind: ClassVar[str] = "qwen_image"
    # Ours, as no recipe is published: the linear layers of the joint attention, as of SD3.
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    transformer_class: ClassVar[str] = "QwenImageTransformer2DModel"
    pipeline_class: ClassVar[str] = "QwenImagePipeline"
    model_class: ClassVar[str] = "soarbench.models.qwen_image.model:QwenImageModel"

    @override
    def architecture(self) -> QwenImageArchitecture:
        return architecture_of(self.source())
