"""Sizes of SANA, read without a single weight; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from soarbench.models.pipeline_architecture import PipelineArchitecture, built

if TYPE_CHECKING:
    from torch import nn

    from baselines.base import VelocityModel
    from baselines.config import LoraConfig

#: Hub ids whose configuration is written down in ``facts``.
KNOWN = {
    "Efficient-Large-Model/Sana_600M_512px_diffusers": "sana_600m",
    "Efficient-Large-Model/Sana_600M_1024px_diffusers": "sana_600m_1024",
}


@dataclass(frozen=True, kw_only=True)
class SanaArchitecture(PipelineArchitecture):
    """Sizes of a pipeline whose autoencoder is deep: a latent stands for 32 by 32 pixels."""

    #: Of encoding, which is above decoding's; counted with the published ``AutoencoderDC``.
    vae_pixel_bytes: ClassVar[float] = 20.1
    #: Of the published weights; its transformer knows no positions.
    largest_image = 4096

    @property
    @override
    def layers(self) -> tuple[int, ...]:
        return (self.config["num_layers"],)

    @override
    def with_layers(self, layers: Sequence[int]) -> SanaArchitecture:
        (count,) = layers
        return replace(self, config={**self.config, "num_layers": count})

    @override
    def adapter_parameters(self, lora: LoraConfig) -> int:
        width = self.config["num_attention_heads"] * self.config["attention_head_dim"]
        layers = self.config["num_layers"] * len(lora.target_modules or ())
        return int(2 * width * lora.rank * layers)

    @override
    def condition_shapes(self, max_sequence_length: int) -> dict[str, tuple[int, ...]]:
        return {
            "prompt_embeds": (max_sequence_length, self.config["caption_channels"]),
            "prompt_attention_mask": (max_sequence_length,),
        }

    @override
    def transformer(self) -> nn.Module:
        from diffusers import SanaTransformer2DModel

        return built(SanaTransformer2DModel, self.config)

    @override
    def velocity(self, transformer: nn.Module) -> VelocityModel:
        # By name: the model imports the architecture.
        model: VelocityModel = resolve_name("soarbench.models.sana.model:SanaVelocity")(transformer)
        return model

    @classmethod
    @override
    def _own_sizes(cls, folder: Path, vae: Mapping[str, Any]) -> dict[str, Any]:
        widths = vae["encoder_block_out_channels"]
        return {"vae_scale_factor": 2 ** (len(widths) - 1), "vae_channels": widths[0]}


def architecture_of(path: str) -> SanaArchitecture:
    """The sizes of a pipeline in a directory, or of a hub id; ``ConfigError`` where unknown."""
    return SanaArchitecture.of_source(path, Path(__file__).parent / "facts", KNOWN)
