"""Sizes of FLUX.2-klein, read without a single weight; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from soarbench.models.pipeline_architecture import PipelineArchitecture, built, read_sizes

if TYPE_CHECKING:
    from torch import nn

    from baselines.base import VelocityModel
    from baselines.config import LoraConfig

#: Hub ids whose configuration is written down in ``facts``.
KNOWN = {
    "black-forest-labs/FLUX.2-klein-base-4B": "flux2_klein_4b",
    "black-forest-labs/FLUX.2-klein-4B": "flux2_klein_4b_distilled",
}


@dataclass(frozen=True, kw_only=True)
class Flux2KleinArchitecture(PipelineArchitecture):
    """Sizes of a pipeline; its latents are of two by two of the autoencoder's."""

    #: Of 16 prompts of 512 tokens through Qwen3 with its answers, counted without numbers.
    prompts_gb: ClassVar[float] = 4.04
    #: Published up to 4 megapixels; positions are rotations and have no end.
    largest_image = 2048

    @property
    @override
    def layers(self) -> tuple[int, ...]:
        """Layers with a stream each for text and image, and with one for both."""
        return self.config["num_layers"], self.config["num_single_layers"]

    @override
    def with_layers(self, layers: Sequence[int]) -> Flux2KleinArchitecture:
        double, single = layers
        changed = {"num_layers": double, "num_single_layers": single}
        return replace(self, config={**self.config, **changed})

    @override
    def adapter_parameters(self, lora: LoraConfig) -> int:
        width = self.config["num_attention_heads"] * self.config["attention_head_dim"]
        (double, single), names = self.layers, lora.target_modules or ()
        fused = sum("to_qkv_mlp_proj" in name for name in names)
        # From the width to queries, keys, values, and both halves of the feed-forward layer.
        fused_width = width * (1 + 3 + 2 * self.config["mlp_ratio"])
        numbers = double * (len(names) - fused) * 2 * width + single * fused * fused_width
        return int(numbers * lora.rank)

    @override
    def condition_shapes(self, max_sequence_length: int) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (max_sequence_length, self.config["joint_attention_dim"])}

    @override
    def transformer(self) -> nn.Module:
        from diffusers import Flux2Transformer2DModel

        return built(Flux2Transformer2DModel, self.config)

    @override
    def velocity(self, transformer: nn.Module) -> VelocityModel:
        # By name: the model imports the architecture.
        name = "soarbench.models.flux2_klein.model:Flux2KleinVelocity"
        model: VelocityModel = resolve_name(name)(transformer)
        return model

    @classmethod
    @override
    def _own_sizes(cls, folder: Path, vae: Mapping[str, Any]) -> dict[str, Any]:
        sizes = super()._own_sizes(folder, vae)
        # Guidance is 1 and no other with weights that were distilled to a few steps.
        is_distilled = bool(read_sizes(folder, "model_index.json").get("is_distilled", False))
        return {
            "vae_scale_factor": 2 * sizes["vae_scale_factor"],
            "vae_channels": sizes["vae_channels"],
            "is_distilled": is_distilled,
        }


def architecture_of(path: str) -> Flux2KleinArchitecture:
    """The sizes of a pipeline in a directory, or of a hub id; ``ConfigError`` where unknown."""
    return Flux2KleinArchitecture.of_source(path, Path(__file__).parent / "facts", KNOWN)
