"""Sizes of Stable Diffusion 3, read without a single weight; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from soarbench.models.pipeline_architecture import PipelineArchitecture, built, read_sizes

if TYPE_CHECKING:
    from torch import nn

    from baselines.base import VelocityModel
    from baselines.config import LoraConfig

#: Hub ids whose configuration is written down in ``facts``.
KNOWN = {
    "stabilityai/stable-diffusion-3.5-medium": "sd35_medium",
    "stabilityai/stable-diffusion-3.5-large": "sd35_large",
}


@dataclass(frozen=True, kw_only=True)
class Sd3Architecture(PipelineArchitecture):
    """Sizes of a pipeline; CLIP reads ``clip_tokens``."""

    clip_tokens: int

    @property
    @override
    def largest_image(self) -> int:
        return int(self.config["pos_embed_max_size"]) * self.unit

    @property
    @override
    def layers(self) -> tuple[int, ...]:
        """Layers with one attention, and with two (SD3.5-M's first 13)."""
        num_dual = len(self.config.get("dual_attention_layers", ()))
        return self.config["num_layers"] - num_dual, num_dual

    @override
    def with_layers(self, layers: Sequence[int]) -> Sd3Architecture:
        plain, dual = layers
        changed = {"num_layers": plain + dual, "dual_attention_layers": tuple(range(dual))}
        return replace(self, config={**self.config, **changed})

    @override
    def adapter_parameters(self, lora: LoraConfig) -> int:
        # A few per cent too many: the last layer lacks the text's way out.
        width = self.config["num_attention_heads"] * self.config["attention_head_dim"]
        layers = self.config["num_layers"] * len(lora.target_modules or ())
        return int(2 * width * lora.rank * layers)

    @override
    def condition_shapes(self, max_sequence_length: int) -> dict[str, tuple[int, ...]]:
        # CLIP's tokens and T5's behind each other; the pipeline pads both to their full length.
        tokens = self.clip_tokens + max_sequence_length
        return {
            "prompt_embeds": (tokens, self.config["joint_attention_dim"]),
            "pooled_prompt_embeds": (self.config["pooled_projection_dim"],),
        }

    @override
    def transformer(self) -> nn.Module:
        from diffusers import SD3Transformer2DModel

        return built(SD3Transformer2DModel, self.config)

    @override
    def velocity(self, transformer: nn.Module) -> VelocityModel:
        # By name: the model imports the architecture.
        model: VelocityModel = resolve_name("soarbench.models.sd3.model:SD3Velocity")(transformer)
        return model

    @classmethod
    @override
    def _own_sizes(cls, folder: Path, vae: Mapping[str, Any]) -> dict[str, Any]:
        tokens = read_sizes(folder, "tokenizer/tokenizer_config.json")["model_max_length"]
        return {**super()._own_sizes(folder, vae), "clip_tokens": int(tokens)}


def architecture_of(path: str) -> Sd3Architecture:
    """The sizes of a pipeline in a directory, or of a hub id; ``ConfigError`` where unknown."""
    return Sd3Architecture.of_source(path, Path(__file__).parent / "facts", KNOWN)
