"""Sizes of Z-Image, read without a single weight; imports no framework."""

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
    "Tongyi-MAI/Z-Image": "z_image",
    "Tongyi-MAI/Z-Image-Turbo": "z_image_turbo",
}
#: Of the published schedulers: 3 of the weights that were distilled to a few steps, 6 of the base.
_TURBO_SHIFT = 3.0


def is_turbo(scheduler: Mapping[str, Any]) -> bool:
    """Whether a pipeline is taken for Turbo, by its scheduler's file; nothing else tells them."""
    return scheduler.get("shift") == _TURBO_SHIFT


@dataclass(frozen=True, kw_only=True)
class ZImageArchitecture(PipelineArchitecture):
    """Sizes of a pipeline whose transformer has one stream for text and image."""

    #: Of 16 prompts of 512 tokens through Qwen3, counted without numbers.
    prompts_gb: ClassVar[float] = 3.28

    @property
    @override
    def unit(self) -> int:
        (patch,) = self.config["all_patch_size"]
        return int(patch) * self.vae_scale_factor

    @property
    @override
    def largest_image(self) -> int:
        return int(self.config["axes_lens"][1]) * self.unit

    @property
    @override
    def layers(self) -> tuple[int, ...]:
        """Layers of the stream, and of each of the two refiners before it."""
        return self.config["n_layers"], self.config["n_refiner_layers"]

    @override
    def with_layers(self, layers: Sequence[int]) -> ZImageArchitecture:
        stream, refiner = layers
        changed = {"n_layers": stream, "n_refiner_layers": refiner}
        return replace(self, config={**self.config, **changed})

    @override
    def adapter_parameters(self, lora: LoraConfig) -> int:
        stream, refiner = self.layers
        layers = (stream + 2 * refiner) * len(lora.target_modules or ())
        return int(2 * self.config["dim"] * lora.rank * layers)

    @override
    def condition_shapes(self, max_sequence_length: int) -> dict[str, tuple[int, ...]]:
        return {
            "prompt_embeds": (max_sequence_length, self.config["cap_feat_dim"]),
            "prompt_attention_mask": (max_sequence_length,),
        }

    @classmethod
    @override
    def _own_sizes(cls, folder: Path, vae: Mapping[str, Any]) -> dict[str, Any]:
        scheduler = read_sizes(folder, "scheduler/scheduler_config.json")
        return {**super()._own_sizes(folder, vae), "is_distilled": is_turbo(scheduler)}

    @override
    def transformer(self) -> nn.Module:
        from diffusers import ZImageTransformer2DModel

        return built(ZImageTransformer2DModel, self.config)

    @override
    def velocity(self, transformer: nn.Module) -> VelocityModel:
        # By name: the model imports the architecture.
        velocity = resolve_name("soarbench.models.z_image.model:ZImageVelocity")
        # The most that a prompt can be: its length is content, of which there is none in a plan.
        model: VelocityModel = velocity(transformer, is_full=True)
        return model


def architecture_of(path: str) -> ZImageArchitecture:
    """The sizes of a pipeline in a directory, or of a hub id; ``ConfigError`` where unknown."""
    return ZImageArchitecture.of_source(path, Path(__file__).parent / "facts", KNOWN)
