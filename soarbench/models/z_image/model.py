"""The only file that knows diffusers' Z-Image names."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import DiffusionPipeline, ZImagePipeline
from diffusers.pipelines.z_image.pipeline_z_image import (
    calculate_shift,
    get_default_z_image_sigmas,
)
from torch import Tensor, nn
from typing_extensions import override

from baselines.base import Condition, Schedule, VelocityModel
from soarbench.models.pipeline import PipelineModel, TextEncoders
from soarbench.models.schedules import SizedShift

#: The pipeline's own; only a scheduler whose shift depends on the size asks for it.
_STEPS = 50


class ZImageVelocity:
    """A transformer as a ``VelocityModel``, with its output in float32, as its pipeline has it.

    Args:
        transformer: Z-Image's.
        is_full: Whether every prompt is taken to fill its length, whatever its mask says.
    """

    def __init__(self, transformer: nn.Module, *, is_full: bool = False) -> None:
        self.transformer = transformer
        self.is_full = is_full

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of ``latents`` (B, C, H, W) at ``sigma`` (B,). -> (B, C, H, W)."""
        dtype = next(self.transformer.parameters()).dtype
        outputs = self.transformer(
            list(latents.to(dtype).unsqueeze(2)),
            # Its time runs from noise to image, in the pipeline's own order of operations.
            (1000 - 1000 * sigma) / 1000,
            self._texts(condition, dtype),
            return_dict=False,
        )[0]
        # And so does its velocity.
        return -torch.stack(list(outputs)).squeeze(2).float()

    def _texts(self, condition: Condition, dtype: torch.dtype) -> list[Tensor]:
        """Each prompt without its padding, which the model would attend to."""
        embeds = condition["prompt_embeds"].to(dtype)
        if self.is_full:
            return list(embeds)
        # The transformer takes a list: how long its texts are has to be known on the CPU.
        lengths = condition["prompt_attention_mask"].sum(1).tolist()
        return [row[: int(length)] for row, length in zip(embeds, lengths, strict=True)]


class ZImageEncoders(TextEncoders):
    """``prompt_embeds`` (B, S, D) and ``prompt_attention_mask`` (B, S), 1 for tokens of a text."""

    @override
    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        texts, _ = self.pipeline.encode_prompt(
            prompts,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        shape = (len(texts), self.max_sequence_length)
        embeds = texts[0].new_zeros(*shape, texts[0].shape[1])
        mask = torch.zeros(shape, dtype=torch.long, device=embeds.device)
        for row, text in enumerate(texts):
            embeds[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}


class ZImageModel(PipelineModel):
    """A loaded pipeline."""

    pipeline_type: ClassVar[type[DiffusionPipeline]] = ZImagePipeline
    encoders_type: ClassVar[type[TextEncoders]] = ZImageEncoders

    @property
    @override
    def latents_dtype(self) -> torch.dtype:
        return torch.float32

    @property
    @override
    def schedule(self) -> Schedule:
        """The scheduler, whose published shift is the same for every size."""
        scheduler = self.pipeline.scheduler
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        ends = [scheduler.config[name] for name in names]
        return SizedShift(
            scheduler,
            lambda tokens, _: float(calculate_shift(tokens, *ends)),
            patch=2,
            training_steps=_STEPS,
            levels=get_default_z_image_sigmas,
        )

    @override
    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it; ``transformer`` replaces the pipeline's."""
        return ZImageVelocity(self.transformer if transformer is None else transformer)

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
