"""What a pipeline is made of, read without a single weight; imports no framework."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soarbench.common.errors import ConfigError
from soarbench.models.config import LABORATORY, ModelConfig
from soarbench.models.hub import is_directory

FACTS = Path(__file__).parent / "facts"
#: Hub ids whose configuration is written down in ``facts``.
KNOWN = {
    "stabilityai/stable-diffusion-3.5-medium": "sd35_medium",
    "stabilityai/stable-diffusion-3.5-large": "sd35_large",
}


class UnknownArchitecture(ConfigError):
    """A hub id whose sizes are not written down here."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a pipeline.

    Attributes:
        transformer: Configuration of the transformer, as diffusers takes it.
        clip_tokens: Tokens that the CLIP encoders give a prompt.
        vae_scale_factor: Pixels of an image along one latent.
        vae_parameters: Of the autoencoder.
    """

    transformer: Mapping[str, object]
    clip_tokens: int
    vae_scale_factor: int
    vae_parameters: int

    def integer(self, key: str) -> int:
        """A whole number of the transformer's configuration."""
        return int(str(self.transformer[key]))

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, H, W) of an image's latents.

        Raises:
            ConfigError: The model knows no positions that far out.
        """
        side = resolution // self.vae_scale_factor
        unit = self.integer("patch_size") * self.vae_scale_factor
        largest = self.integer("pos_embed_max_size") * unit
        if resolution > largest or resolution < unit:
            raise ConfigError(
                f"model.resolution={resolution}: this model makes {unit} to {largest} pixels"
            )
        return self.integer("in_channels"), side, side

    def text_tokens(self, max_sequence_length: int) -> int:
        """Length of a prompt's condition: CLIP's tokens and T5's behind each other."""
        return self.clip_tokens + max_sequence_length


def architecture_of(model: ModelConfig) -> Architecture:
    """The sizes of a configured pipeline.

    Raises:
        UnknownArchitecture: A hub id that is not written down here.
        ConfigError: A directory without a transformer's configuration.
    """
    if model.path == LABORATORY:
        from soarbench.lab.assets import asset_dir

        return _of_directory(asset_dir("base"))
    if is_directory(model.path):
        return _of_directory(Path(model.path).expanduser())
    if model.path not in KNOWN:
        known = ", ".join(KNOWN)
        raise UnknownArchitecture(
            f"model.path={model.path}: its sizes are not known without a download; give a local "
            f"directory, or one of {known}"
        )
    facts = json.loads((FACTS / f"{KNOWN[model.path]}.json").read_text())
    facts.pop("source")
    return Architecture(**facts)


def _of_directory(folder: Path) -> Architecture:
    """Sizes from the configuration files and the weights' headers of a saved pipeline."""
    config = folder / "transformer" / "config.json"
    if not config.is_file():
        raise ConfigError(f"model.path={folder}: no transformer/config.json there")
    transformer = json.loads(config.read_text())
    vae = json.loads((folder / "vae" / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    return Architecture(
        transformer={k: v for k, v in transformer.items() if not k.startswith("_")},
        clip_tokens=int(tokenizer["model_max_length"]),
        vae_scale_factor=_scale_factor(vae),
        vae_parameters=num_stored(folder / "vae"),
    )


def _scale_factor(vae: Mapping[str, object]) -> int:
    """As the pipeline takes it: every block but the last halves the image."""
    blocks = vae["block_out_channels"]
    assert isinstance(blocks, list)
    return int(2 ** (len(blocks) - 1))


def num_stored(folder: Path) -> int:
    """Numbers in a folder's safetensors files, from their headers alone; 0 without any."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        count += sum(math.prod(entry["shape"]) for entry in header.values())
    return count
