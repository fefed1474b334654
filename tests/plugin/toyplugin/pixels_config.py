"""A model family: where its weights lie and how large it is; imports no framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from soarbench.models.base import Architecture, ImageModel, ModelConfig, PromptEncoder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from baselines.base import VelocityModel


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(ModelConfig):
    """A model of a few weights that draws pixels; its weights follow from ``seed``.

    Attributes:
        seed: Of the initial weights.
        width: Of the hidden layer.
    """

    kind: ClassVar[str] = "pixels"
    lora_targets: ClassVar[tuple[str, ...]] = ("inward", "outward")
    transformer_class: ClassVar[str] = "PixelsTransformer"

    seed: int = 0
    width: int = 16

    @override
    def check_source(self) -> None:
        """Nothing: there is no file that could be missing."""

    @override
    def load(self, device: torch.device | str, prompts: PromptEncoder | None = None) -> ImageModel:
        from toyplugin.pixels import PixelsModel

        return PixelsModel(self, device, prompts)

    @override
    def load_encoders(self, device: torch.device) -> PromptEncoder:
        from toyplugin.pixels import ColorEncoder

        return ColorEncoder(device)

    @override
    def architecture(self) -> Architecture:
        return PixelsArchitecture(self.width)

    @override
    def base_digest(self) -> str:
        # Of weights in files it is a digest of the files: soarbench.models.hub.
        return f"pixels-{self.seed}-{self.width}"

    @override
    def encoder_digest(self) -> str:
        return "colors-1"


class PixelsArchitecture(Architecture):
    """Sizes, for ``plan``.

    Args:
        width: Of the hidden layer.
    """

    vae_parameters = 0
    unit = 1
    largest_image = 64
    layers = (1,)

    def __init__(self, width: int) -> None:
        self.width = width

    @override
    def with_layers(self, layers: Sequence[int]) -> PixelsArchitecture:
        assert tuple(layers) == self.layers
        return self

    @override
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return 3, resolution, resolution

    @override
    def condition_shapes(self, max_sequence_length: int) -> dict[str, tuple[int, ...]]:
        return {"color": (3,)}

    @override
    def transformer(self) -> nn.Module:
        from toyplugin.pixels import PixelsTransformer

        return PixelsTransformer(self.width)

    @override
    def velocity(self, transformer: nn.Module) -> VelocityModel:
        from toyplugin.pixels import PixelsVelocity

        return PixelsVelocity(transformer)
