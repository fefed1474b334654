"""The only file that knows diffusers' Qwen-Image names."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import DiffusionPipeline, QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from torch import Tensor, nn
from typing_extensions import override

from baselines.base import Condition, Schedule, VelocityModel
from soarbench.models.pipeline import PipelineModel, TextEncoders
from soarbench.models.schedules import SizedShift

#: Published.
_STEPS = 50


def packed(latents: Tensor) -> Tensor:
    """Tokens of two by two latents, row by row: (B, C, H, W) -> (B, H W / 4, 4 C)."""
    return nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


class QwenImageVelocity:
    """A transformer as a ``VelocityModel``, with its output in the model's dtype."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of ``latents`` (B, C, H, W) at ``sigma`` (B,). -> (B, C, H, W)."""
        dtype = next(self.transformer.parameters()).dtype
        height, width = latents.shape[-2] // 2, latents.shape[-1] // 2
        tokens: Tensor = self.transformer(
            hidden_states=packed(latents.to(dtype)),
            # It multiplies by a thousand itself; as its pipeline, which divides by as much before.
            timestep=1000 * sigma / 1000,
            encoder_hidden_states=condition["prompt_embeds"].to(dtype),
            encoder_hidden_states_mask=condition["prompt_embeds_mask"],
            img_shapes=[[(1, height, width)]] * len(latents),
            return_dict=False,
        )[0]
        unpacked = tokens.transpose(1, 2).unflatten(2, (height, width))
        return nn.functional.pixel_shuffle(unpacked, 2)


class QwenImageEncoders(TextEncoders):
    """``prompt_embeds`` (B, S, D) and ``prompt_embeds_mask`` (B, S), 1 for tokens of a text."""

    @override
    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        length = self.max_sequence_length
        embeds, mask = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=length
        )
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        # The pipeline pads to the longest of the call, which would be the company's length.
        padding = length - embeds.shape[1]
        return {
            "prompt_embeds": nn.functional.pad(embeds, (0, 0, 0, padding)),
            "prompt_embeds_mask": nn.functional.pad(mask, (0, padding)),
        }


class QwenImageModel(PipelineModel):
    """A loaded pipeline; images are videos of one picture to its autoencoder."""

    pipeline_type: ClassVar[type[DiffusionPipeline]] = QwenImagePipeline
    encoders_type: ClassVar[type[TextEncoders]] = QwenImageEncoders

    @property
    @override
    def latent_shape(self) -> tuple[int, int, int]:
        channels, height, width = super().latent_shape
        return channels // 4, height, width

    @property
    @override
    def schedule(self) -> Schedule:
        """The scheduler under the pipeline's shift for the size."""
        scheduler = self.pipeline.scheduler
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        ends = [scheduler.config[name] for name in names]
        return SizedShift(
            scheduler,
            lambda tokens, _: float(calculate_shift(tokens, *ends)),
            patch=2,
            training_steps=_STEPS,
        )

    @override
    def guide(self, uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
        """Guidance that leaves each token as long as the prompt's own velocity has it."""
        tokens, alone = packed(super().guide(uncond, cond, guidance_scale)), packed(cond)
        size = alone.norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True)
        height, width = cond.shape[-2] // 2, cond.shape[-1] // 2
        unpacked = (tokens * size).transpose(1, 2).unflatten(2, (height, width))
        return nn.functional.pixel_shuffle(unpacked, 2)

    @override
    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it; ``transformer`` replaces the pipeline's."""
        return QwenImageVelocity(self.transformer if transformer is None else transformer)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a latent's channels, (1, C, 1, 1)."""
        vae = self.pipeline.vae
        values = (vae.config.latents_mean, vae.config.latents_std)
        mean, std = (torch.tensor(value, device=vae.device).view(1, -1, 1, 1) for value in values)
        return mean, std

    @override
    def encoded(self, pixels: Tensor) -> Tensor:
        return super().encoded(pixels.unsqueeze(2)).squeeze(2)

    @override
    def decoded(self, raw: Tensor) -> Tensor:
        return super().decoded(raw.unsqueeze(2)).squeeze(2)

    @override
    def scaled(self, raw: Tensor) -> Tensor:
        mean, std = self._statistics()
        return (raw - mean) / std

    @override
    def unscaled(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return latents.to(mean.dtype) * std + mean
