"""Sizes of a pipeline in diffusers' layout, read without a single weight; imports no framework."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from typing_extensions import override

from evaluators.batches import at_once
from soarbench.common.errors import ConfigError, UserError
from soarbench.models.adapters import header_shapes
from soarbench.models.base import Architecture, UnknownArchitecture
from soarbench.models.hub import is_directory, model_json

if TYPE_CHECKING:
    from torch import nn

#: Images that go through the autoencoder at once, and pixels of one: 4 of 512 px. To decode one of
#: 512 px SD3's takes 0.8 GB: 64 of them took 51 GB, beside a rollout on an 80 GB card.
_IMAGES, _IMAGE_PIXELS = 64, 128**2


def images_at_once(pixels: int) -> int:
    """How many images of so many pixels go through the autoencoder at once."""
    return at_once(_IMAGES, pixels, usual=_IMAGE_PIXELS)


@dataclass(frozen=True, kw_only=True)
class PipelineArchitecture(Architecture):
    """Sizes of a pipeline; ``config`` is the transformer's, as diffusers takes it.

    Attributes:
        config: Of the transformer.
        vae_scale_factor: Pixels of an image along one latent.
        vae_parameters: Numbers in the autoencoder.
        vae_channels: Channels of the autoencoder where it has all pixels.
        encoder_parameters: Numbers in all text encoders.
        stored_parameters: Numbers in the transformer's files.
        is_distilled: As of any architecture.
    """

    #: Bytes of float32 a pixel and channel of the widest level that decoding holds at its peak,
    #: which is above encoding's; counted on a pretended GPU with diffusers' ``AutoencoderKL``.
    vae_pixel_bytes: ClassVar[float] = 24.5

    config: Mapping[str, Any]
    vae_scale_factor: int
    vae_parameters: int
    vae_channels: int = 0
    encoder_parameters: int = 0
    stored_parameters: int = 0
    is_distilled: bool = False

    @property
    @override
    def unit(self) -> int:
        return int(self.config["patch_size"]) * self.vae_scale_factor

    @override
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        least, most = self.unit, self.largest_image
        if not least <= resolution <= most:
            raise ConfigError(
                f"model.resolution={resolution}: this model draws {least} to {most} pixels; say "
                f"model.resolution={min(max(resolution, least), most)}, or what it was trained at"
            )
        if resolution % self.unit:
            raise ConfigError(
                f"model.resolution={resolution}: must be a multiple of {self.unit}, the side of "
                f"a token; use {resolution // self.unit * self.unit}"
            )
        side = resolution // self.vae_scale_factor
        return self.config["in_channels"], side, side

    @override
    def vae_bytes(self, resolution: int) -> float:
        pixels = resolution**2
        return self.vae_pixel_bytes * self.vae_channels * images_at_once(pixels) * pixels

    @classmethod
    def of_source(cls, path: str, facts: Path, known: Mapping[str, str]) -> Self:
        """Sizes of a directory, or of a hub id by its file of ``facts``, which ``known`` names.

        ``UnknownArchitecture`` for another hub id and for a directory that lacks them.
        """
        if is_directory(path):
            return cls._of_directory(Path(path).expanduser())
        if path not in known:
            raise UnknownArchitecture(
                f"model.path={path}: its sizes are not known without a download; give a local "
                f"directory, or one of {', '.join(known)}"
            )
        values = json.loads((facts / f"{known[path]}.json").read_text())
        values.pop("source")
        return cls(**values)

    @classmethod
    def _of_directory(cls, folder: Path) -> Self:
        """Sizes that a saved pipeline holds."""
        vae = read_sizes(folder, "vae/config.json")
        transformer = read_sizes(folder, "transformer/config.json")
        sizes: dict[str, Any] = {
            "config": {k: v for k, v in transformer.items() if not k.startswith("_")},
            "vae_parameters": num_stored(folder / "vae"),
            "encoder_parameters": sum(map(num_stored, folder.glob("text_encoder*"))),
            "stored_parameters": num_stored(folder / "transformer"),
        }
        try:
            architecture = cls(**sizes, **cls._own_sizes(folder, vae))
            # What planning and training will ask for: a missing number is missed here.
            architecture.latent_shape(architecture.unit)
            architecture.condition_shapes(1)
            len(architecture.layers)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"model.path={folder}: transformer/config.json or vae/config.json has no usable "
                f"{error}; copy both there from where the rest is from"
            ) from error
        if architecture.config.get("guidance_embeds"):
            raise UserError(
                f"model.path={folder}: its transformer takes guidance as an input "
                "(guidance_embeds), which is not given here; use the base it was distilled from"
            )
        return architecture

    @classmethod
    def _own_sizes(cls, folder: Path, vae: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG003 (of those that have more)
        """What families hold under names of their own; ``vae`` is the autoencoder's file."""
        widths = vae["block_out_channels"]
        # As pipelines take it: every block but the last halves the image.
        return {"vae_scale_factor": 2 ** (len(widths) - 1), "vae_channels": widths[0]}


def built(kind: Callable[..., nn.Module], config: Mapping[str, Any]) -> nn.Module:
    """A transformer by its file, of which diffusers leaves out what older releases knew, too."""
    names = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in config.items() if name in names})


def read_sizes(folder: Path, name: str) -> dict[str, Any]:
    """A file of a pipeline's directory; ``UnknownArchitecture`` without it."""
    if not (folder / name).is_file():
        raise UnknownArchitecture(f"model.path={folder}: no {name} there")
    return model_json(folder / name, f"model.path={folder}")


def num_stored(folder: Path) -> int:
    """Numbers in a folder's safetensors files, from their headers alone; 0 without any."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        # By name: a folder may hold the same weights in another type beside them.
        shapes |= header_shapes(path)
    return sum(map(math.prod, shapes.values()))
