"""Sizes of Qwen-Image, read without a single weight; imports no framework."""

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
KNOWN = {"Qwen/Qwen-Image": "qwen_image"}


@dataclass(frozen=True, kw_only=True)
class QwenImageArchitecture(PipelineArchitecture):
    """Sizes of a pipeline; a token is two by two latents."""

    #: Of 16 prompts of 546 tokens through Qwen2.5-VL with its answers, counted without numbers.
    prompts_gb: ClassVar[float] = 4.97
    #: Of decoding, which is above encoding's; counted with the published autoencoder.
    vae_pixel_bytes: ClassVar[float] = 72.2
    #: Published up to 1664 px a side; positions are rotations and have no end.
    largest_image = 2048

    @override
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        channels, *sides = super().latent_shape(resolution)
        return channels // int(self.config["patch_size"]) ** 2, sides[0], sides[1]

    @property
    @override
    def layers(self) -> tuple[int, ...]:
        return (self.config["num_layers"],)

    @override
    def with_layers(self, layers: Sequence[int]) -> QwenImageArchitecture:
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
            "prompt_embeds": (max_sequence_length, self.config["joint_attention_dim"]),
            "prompt_embeds_mask": (max_sequence_length,),
        }

    @override
    def transformer(self) -> nn.Module:
        from diffusers import QwenImageTransformer2DModel

        return built(QwenImageTransformer2DModel, self.config)

    @override
    def velocity(self, transformer: nn.Module) -> VelocityModel:
        # By name: the model imports the architecture.
        name = "soarbench.models.qwen_image.model:QwenImageVelocity"
        model: VelocityModel = resolve_name(name)(transformer)
        return model

    @classmethod
    @override
    def _own_sizes(cls, folder: Path, vae: Mapping[str, Any]) -> dict[str, Any]:
        scale = 2 ** len(vae["temperal_downsample"])
        return {"vae_scale_factor": scale, "vae_channels": vae["base_dim"]}


def architecture_of(path: str) -> QwenImageArchitecture:
    """The sizes of a pipeline in a directory, or of a hub id; ``ConfigError`` where unknown."""
    return QwenImageArchitecture.of_source(path, Path(__file__).parent / "facts", KNOWN)
