"""FLUX.2-klein: where a pipeline lies and how it is run; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.models.flux2_klein.architecture import Flux2KleinArchitecture, architecture_of
from soarbench.models.pipeline_config import PipelineConfig


@dataclass(frozen=True, kw_only=True)
class Flux2KleinConfig(PipelineConfig):
    """A pipeline of FLUX.2-klein's architecture."""

    kind: ClassVar[str] = "flux2_klein"
    # Ours, as no recipe is published: the projections into and out of attention that have a name of
    # their own. The single-stream layers' way out is called as a list of the double-stream ones is.
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "attn.to_qkv_mlp_proj",
    )  # fmt: skip
    transformer_class: ClassVar[str] = "Flux2Transformer2DModel"
    pipeline_class: ClassVar[str] = "Flux2KleinPipeline"
    model_class: ClassVar[str] = "soarbench.models.flux2_klein.model:Flux2KleinModel"

    @override
    def architecture(self) -> Flux2KleinArchitecture:
        return architecture_of(self.source())
