"""Z-Image: where a pipeline lies and how it is run; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.models.pipeline_config import PipelineConfig
from soarbench.models.z_image.architecture import ZImageArchitecture, architecture_of


@dataclass(frozen=True, kw_only=True)
class ZImageConfig(PipelineConfig):
    """A pipeline of Z-Image's architecture.

    Guidance is the weight of the prompt's own velocity against the negative's, 1 being off; what
    the pipeline calls so is 1 less.
    """

    kind: ClassVar[str] = "z_image"
    # Ours, as no recipe is published: the attention's projections.
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0",
    )  # fmt: skip
    transformer_class: ClassVar[str] = "ZImageTransformer2DModel"
    pipeline_class: ClassVar[str] = "ZImagePipeline"
    model_class: ClassVar[str] = "soarbench.models.z_image.model:ZImageModel"

    @override
    def architecture(self) -> ZImageArchitecture:
        return architecture_of(self.source())
