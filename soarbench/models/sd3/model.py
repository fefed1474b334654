"""The only file that knows diffusers' Stable Diffusion 3 names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from typing_extensions import override

from baselines.base import Condition, Schedule, VelocityModel
from baselines.schedule import StaticShift
from soarbench.models.pipeline import PipelineModel, explained, modules_of
from soarbench.models.pipeline import TextEncoders as PipelineEncoders
from soarbench.models.pipeline_config import PipelineConfig
from soarbench.models.sd3.config import Sd3Config


class SD3Velocity:
    """A transformer as a ``VelocityModel``, with its output in the model's dtype."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of ``latents`` (B, C, H, W) at ``sigma`` (B,). -> (B, C, H, W)."""
        dtype = next(self.transformer.parameters()).dtype
        # A thousand times sigma, not looked up on the scheduler's grid: SOAR's public code does so
        # and floors the level of its auxiliary points by up to 2.9e-3 in sigma.
        velocity: Tensor = self.transformer(
            hidden_states=latents.to(dtype),
            timestep=1000 * sigma,
            encoder_hidden_states=condition["prompt_embeds"].to(dtype),
            pooled_projections=condition["pooled_prompt_embeds"].to(dtype),
            return_dict=False,
        )[0]
        return velocity


class TextEncoders(PipelineEncoders):
    """``prompt_embeds`` (B, S, D) and ``pooled_prompt_embeds`` (B, P)."""

    @override
    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


class SD3Model(PipelineModel):
    """A loaded pipeline, without its text encoders where ``prompts`` takes their place."""

    pipeline_type: ClassVar[type[DiffusionPipeline]] = StableDiffusion3Pipeline
    encoders_type: ClassVar[type[PipelineEncoders]] = TextEncoders
    encoder_parts: ClassVar[tuple[str, ...]] = tuple(
        f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")
    )

    @classmethod
    @override
    def load_pipeline(
        cls, config: PipelineConfig, options: Mapping[str, object]
    ) -> DiffusionPipeline:
        pipeline = super().load_pipeline(config, options)
        assert isinstance(config, Sd3Config)
        if config.vae_channels_last and pipeline.vae is not None:
            pipeline.vae.to(memory_format=torch.channels_last)
        return pipeline

    @classmethod
    @override
    def load_encoders(cls, config: PipelineConfig, device: torch.device) -> PipelineEncoders:
        with explained(config, "has no transformer"):
            sizes = SD3Transformer2DModel.load_config(
                config.source(), subfolder="transformer", revision=config.revision
            )
        # The pipeline takes sizes from its transformer, which needs no weights for that.
        with torch.device("meta"):
            transformer = SD3Transformer2DModel.from_config(sizes)
        pipeline = cls.load_pipeline(config, {"transformer": transformer, "vae": None})
        for part in modules_of(pipeline):
            if part is not transformer:
                part.to(device)
        return TextEncoders(pipeline, config.max_sequence_length, device)

    @property
    @override
    def schedule(self) -> Schedule:
        """The scheduler's ``shift``; SD3.5-M: 3.0."""
        return StaticShift(float(self.pipeline.scheduler.config.shift))

    @override
    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it; ``transformer`` replaces the pipeline's."""
        return SD3Velocity(self.transformer if transformer is None else transformer)

    @override
    def scaled(self, raw: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        latents: Tensor = (raw - config.shift_factor) * config.scaling_factor
        return latents

    @override
    def unscaled(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        raw: Tensor = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        return raw
