"""The laboratory's autoencoder: 64 x 64 pictures to 8 x 8 x 8 latents, cheap on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor, nn

from soarbench.lab.build.training import DrawnData, Row, StageRecipe, train_on_draws

LATENT_CHANNELS = 8
# What it loses no base can draw: the detector reads 90 % of its reconstructions as the originals.
RECIPE = StageRecipe(steps=5000, batch_size=16, learning_rate=1.5e-3, seed=1)
# Standard deviation of the noise that latents survive in training, so that a base's small errors
# stay small in pixels.
LATENT_NOISE = 0.1
# Keeps latents from outgrowing that noise.
LATENT_PENALTY = 1e-3


def new_autoencoder() -> AutoencoderDC:
    """The architecture, with fresh weights."""
    # Its first stage is a pixel-unshuffle: an autoencoder that convolves many channels at 64 x 64
    # pixels took half a second a step of 16 pictures on a CPU.
    channels, layers = (32, 32, 64, 128), (0, 1, 2, 2)
    return AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
    )


class AutoencoderLoss(nn.Module):
    """Reconstruction of pixels and of their differences, with noisy latents of bounded size."""

    def __init__(self, autoencoder: AutoencoderDC) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, pixels: Tensor, latent_noise: Tensor) -> dict[str, Tensor]:
        """Loss of a batch of pictures, (B, 3, 64, 64) in -1..1."""
        latents = self.autoencoder.encode(pixels).latent
        drawn = self.autoencoder.decode(latents + LATENT_NOISE * latent_noise).sample
        error = drawn - pixels
        # Of differences as well: thin strokes of letters came out soft without them.
        loss = error.abs().mean() + error.square().mean()
        loss = loss + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        return {"loss": loss + LATENT_PENALTY * latents.square().mean()}


def to_model_pixels(pixels: np.ndarray) -> Tensor:
    """uint8 (..., H, W, 3) to float (..., 3, H, W) in -1..1."""
    # Copied: torch warns of arrays that are mapped read-only.
    return torch.from_numpy(np.array(pixels)).movedim(-1, -3).float() / 127.5 - 1


def build_autoencoder(data: DrawnData, folder: Path) -> AutoencoderDC:
    """Train the autoencoder on the drawn pictures and set its latent scale and shift."""
    torch.manual_seed(RECIPE.seed)
    autoencoder = new_autoencoder()

    def row(chosen: int, generator: torch.Generator) -> Row:
        noise = torch.randn(LATENT_CHANNELS, 8, 8, generator=generator)
        return {"pixels": to_model_pixels(data.pixels[chosen]), "latent_noise": noise}

    train_on_draws(AutoencoderLoss(autoencoder), RECIPE, folder, len(data.pixels), row)
    latents = encode_all(autoencoder, data.pixels[:2000])
    autoencoder.register_to_config(
        scaling_factor=float(1 / latents.std()),
        shift_factor=float(latents.mean()),
        # StableDiffusion3Pipeline takes the scale of its autoencoder from the length of this list.
        block_out_channels=list(autoencoder.config.encoder_block_out_channels),
    )
    return autoencoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(autoencoder: AutoencoderDC, pixels: np.ndarray) -> Tensor:
    """Raw latents of all pictures, in order. -> (N, 8, 8, 8) float32."""
    batches = (to_model_pixels(pixels[i : i + 64]) for i in range(0, len(pixels), 64))
    return torch.cat([autoencoder.encode(batch).latent for batch in batches])
