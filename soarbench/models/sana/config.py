"""SANA: where a pipeline lies and how it is run; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.models.pipeline_config import PipelineConfig
from soarbench.models.sana.architecture import SanaArchitecture, architecture_of


@dataclass(frozen=True, kw_only=True)
class SanaConfig(PipelineConfig):
    """A pipeline of SANA's architecture."""

    kind: ClassVar[str] = "sana"
    # Ours, as no recipe is published: the projections of both attentions.
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
        "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
    )  # fmt: skip
    transformer_class: ClassVar[str] = "SanaTransformer2DModel"
    pipeline_class: ClassVar[str] = "SanaPipeline"
    model_class: ClassVar[str] = "soarbench.models.sana.model:SanaModel"

    @override
    def architecture(self) -> SanaArchitecture:
        return architecture_of(self.source())
