"""What a pipeline is made of, read without a single weight; imports no framework."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from soarbench.common.errors import ConfigError
from soarbench.models.adapters import header_shapes
from soarbench.models.base import Architecture, UnknownArchitecture
from soarbench.models.hub import is_directory

if TYPE_CHECKING:
    from torch import nn

    from baselines.base import VelocityModel
    from baselines.config import LoraConfig

#: Bytes of float32 a pixel and channel of the widest level that decoding holds at its peak, which
#: is above encoding's; counted on a pretended GPU.
_DECODE_BYTES = 24.5
#: Hub ids whose configuration is written down in ``facts``.
KNOWN = {
    "stabilityai/stable-diffusion-3.5-medium": "sd35_medium",
    "stabilityai/stable-diffusion-3.5-large": "sd35_large",
}


@dataclass(frozen=True, kw_only=True)
class Sd3Architecture(Architecture):
    """Sizes of a pipeline; ``config`` is the transformer's, as diffusers takes it."""

    config: Mapping[str, Any]
    clip_tokens: int
    #: Pixels of an image along one latent.
    vae_scale_factor: int
    vae_parameters: int
    #: Channels of the autoencoder where it has all pixels.
    vae_channels: int = 0
    encoder_parameters: int = 0
    stored_parameters: int = 0

    @property
    @override
    def unit(self) -> int:
        return int(self.config["patch_size"]) * self.vae_scale_factor

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
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        if not self.unit <= resolution <= self.largest_image:
            raise ConfigError(
                f"model.resolution={resolution}: this model makes {self.unit} to "
                f"{self.largest_image} pixels"
            )
        if resolution % self.unit:
            raise ConfigError(
                f"model.resolution={resolution}: must be a multiple of {self.unit}, the side of "
                f"a token; use {resolution // self.unit * self.unit}"
            )
        side = resolution // self.vae_scale_factor
        return self.config["in_channels"], side, side

    @override
    def condition_shapes(self, max_sequence_length: int) -> dict[str, tuple[int, ...]]:
        # CLIP's tokens and T5's behind each other; the pipeline pads both to their full length.
        tokens = self.clip_tokens + max_sequence_length
        return {
            "prompt_embeds": (tokens, self.config["joint_attention_dim"]),
            "pooled_prompt_embeds": (self.config["pooled_projection_dim"],),
        }

    @override
    def vae_bytes(self, resolution: int) -> float:
        # By name: the model imports the architecture.
        pixels, model = resolution**2, "soarbench.models.sd3.model"
        images: int = resolve_name(f"{model}:images_at_once")(pixels)
        return _DECODE_BYTES * self.vae_channels * images * pixels

    @override
    def transformer(self) -> nn.Module:
        from diffusers import SD3Transformer2DModel

        transformer: nn.Module = SD3Transformer2DModel(**self.config)
        return transformer

    @override
    def velocity(self, transformer: nn.Module) -> VelocityModel:
        # By name: the model imports the architecture.
        model: VelocityModel = resolve_name("soarbench.models.sd3.model:SD3Velocity")(transformer)
        return model


def architecture_of(path: str) -> Sd3Architecture:
    """The sizes of a pipeline in a directory, or of a hub id; ``ConfigError`` where unknown."""
    if is_directory(path):
        return _of_directory(Path(path).expanduser())
    if path not in KNOWN:
        raise UnknownArchitecture(
            f"model.path={path}: its sizes are not known without a download; give a local "
            f"directory, or one of {', '.join(KNOWN)}"
        )
    facts = json.loads((Path(__file__).parent / f"facts/{KNOWN[path]}.json").read_text())
    facts.pop("source")
    return Sd3Architecture(**facts)


def _of_directory(folder: Path) -> Sd3Architecture:
    files = ("transformer/config.json", "vae/config.json", "tokenizer/tokenizer_config.json")
    for name in files:
        if not (folder / name).is_file():
            raise UnknownArchitecture(f"model.path={folder}: no {name} there")
    transformer, vae, tokenizer = (json.loads((folder / name).read_text()) for name in files)
    return Sd3Architecture(
        config={k: v for k, v in transformer.items() if not k.startswith("_")},
        clip_tokens=int(tokenizer["model_max_length"]),
        # As the pipeline takes it: every block but the last halves the image.
        vae_scale_factor=2 ** (len(vae["block_out_channels"]) - 1),
        vae_parameters=num_stored(folder / "vae"),
        vae_channels=vae["block_out_channels"][0],
        encoder_parameters=sum(map(num_stored, folder.glob("text_encoder*"))),
        stored_parameters=num_stored(folder / "transformer"),
    )


def num_stored(folder: Path) -> int:
    """Numbers in a folder's safetensors files, from their headers alone; 0 without any."""
    shapes = (header_shapes(path) for path in folder.glob("*.safetensors"))
    return sum(math.prod(shape) for stored in shapes for shape in stored.values())
