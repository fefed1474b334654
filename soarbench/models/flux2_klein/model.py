"""The only file that knows diffusers' FLUX.2-klein names."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from typing_extensions import override

from baselines.base import Condition, Schedule, VelocityModel
from soarbench.models.pipeline import PipelineModel, TextEncoders
from soarbench.models.schedules import SizedShift

#: Published for the base weights.
_STEPS = 50


def positions(times: int, rows: int, columns: int, tokens: int, device: torch.device) -> Tensor:
    """Places (time, row, column, token) of a sequence, the last counting fastest. -> (N, 4)."""
    axes = [torch.arange(count, device=device) for count in (times, rows, columns, tokens)]
    return torch.cartesian_prod(*axes)


class Flux2KleinVelocity:
    """A transformer as a ``VelocityModel``, with its output in the model's dtype."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of ``latents`` (B, C, H, W) at ``sigma`` (B,). -> (B, C, H, W)."""
        dtype = next(self.transformer.parameters()).dtype
        height, width = latents.shape[-2:]
        device = latents.device
        embeds = condition["prompt_embeds"].to(dtype)
        velocity: Tensor = self.transformer(
            # A token is a latent, row by row.
            hidden_states=latents.to(dtype).flatten(2).transpose(1, 2),
            # It multiplies by a thousand itself; as its pipeline, which divides by as much before.
            timestep=1000 * sigma / 1000,
            encoder_hidden_states=embeds,
            txt_ids=positions(1, 1, 1, embeds.shape[1], device),
            img_ids=positions(1, height, width, 1, device),
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).reshape(latents.shape)


class Flux2KleinEncoders(TextEncoders):
    """``prompt_embeds`` (B, S, D): three layers of Qwen3, padding included and attended to."""

    @override
    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"prompt_embeds": embeds}


class Flux2KleinModel(PipelineModel):
    """A loaded pipeline; a latent stands for two by two of the autoencoder's, normalised."""

    pipeline_type: ClassVar[type[DiffusionPipeline]] = Flux2KleinPipeline
    encoders_type: ClassVar[type[TextEncoders]] = Flux2KleinEncoders

    @property
    @override
    def stride(self) -> int:
        return 2 * int(self.pipeline.vae_scale_factor)

    @property
    @override
    def schedule(self) -> Schedule:
        """The scheduler under the pipeline's shift for size and steps."""
        return SizedShift(
            self.pipeline.scheduler, compute_empirical_mu, patch=1, training_steps=_STEPS
        )

    @override
    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it; ``transformer`` replaces the pipeline's."""
        return Flux2KleinVelocity(self.transformer if transformer is None else transformer)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a latent's channels, (1, C, 1, 1)."""
        vae = self.pipeline.vae
        std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        return vae.bn.running_mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)

    @override
    def scaled(self, raw: Tensor) -> Tensor:
        mean, std = self._statistics()
        return (nn.functional.pixel_unshuffle(raw, 2) - mean) / std

    @override
    def unscaled(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return nn.functional.pixel_shuffle(latents.to(mean.dtype) * std + mean, 2)
