"""The model itself: latents are the pixels, and a condition is the colour that a prompt names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor, nn

from baselines.base import Condition, VelocityModel
from baselines.schedule import StaticShift
from soarbench.models.base import ImageModel, PromptEncoder
from toyplugin.palette import colors_of
from toyplugin.pixels_config import PixelsConfig


class PixelsTransformer(ModelMixin, ConfigMixin):
    """Sees every pixel by itself. Of diffusers, so that its weights are saved as others are.

    Args:
        width: Of the hidden layer.
    """

    @register_to_config
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.inward = nn.Linear(7, width)
        self.outward = nn.Linear(width, 3)

    def forward(self, pixels: Tensor, sigma: Tensor, color: Tensor) -> Tensor:
        """Velocity of pixels (B, 3, H, W) at levels (B,), under colours (B, 3)."""
        size = pixels.shape[-2:]
        context = torch.cat([sigma[:, None], color], dim=1)[..., None, None].expand(-1, -1, *size)
        inputs = torch.cat([pixels, context], dim=1).movedim(1, -1)
        return self.outward(nn.functional.silu(self.inward(inputs))).movedim(-1, 1)


class PixelsVelocity:
    """A transformer as a ``VelocityModel``."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of ``latents`` (B, 3, H, W) at ``sigma`` (B,)."""
        dtype = next(self.transformer.parameters()).dtype
        inputs = (latents, sigma, condition["color"])
        velocity: Tensor = self.transformer(*(value.to(dtype) for value in inputs))
        return velocity


class ColorEncoder:
    """The colour words of a prompt; grey where there are none."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = device

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Colours in -1..1, batch first."""
        colors = [np.mean(colors_of(text) or [(127.5,) * 3], axis=0) for text in prompts]
        return {"color": torch.tensor(np.array(colors) / 127.5 - 1).float().to(self.device)}


class PixelsModel(ImageModel):
    """The base class samples by Euler's steps and knows where the transformer is.

    Args:
        config: Size and seed.
        device: Where to.
        prompts: Kept conditions; null: the encoder itself.
    """

    schedule = StaticShift(1.0)
    scheduler_name = "linear"

    def __init__(
        self, config: PixelsConfig, device: torch.device | str, prompts: PromptEncoder | None
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            transformer = PixelsTransformer(config.width)
        transformer.to(device, getattr(torch, config.dtype)).requires_grad_(False).eval()
        self.transformer: nn.Module = transformer
        self.resolution = config.resolution
        self.prompts = prompts or ColorEncoder(device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Of the pixels."""
        return 3, self.resolution, self.resolution

    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it."""
        return PixelsVelocity(self.transformer if transformer is None else transformer)

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions, batch first."""
        return self.prompts.encode(prompts)

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pixels in -1..1. -> (B, 3, H, W) float32."""
        pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
        return torch.from_numpy(pixels / 127.5 - 1).movedim(-1, 1).to(self.device)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents (B, 3, H, W)."""
        pixels = ((latents.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return [Image.fromarray(one.numpy()) for one in pixels.movedim(1, -1).cpu()]
