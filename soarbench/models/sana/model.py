"""The only file that knows diffusers' SANA names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline, SanaPipeline
from torch import Tensor, nn
from typing_extensions import override

from baselines.base import Condition, Generators, Schedule, VelocityModel
from baselines.flow import guided_velocity
from baselines.schedule import StaticShift
from evaluators.devices import on_device
from soarbench.models.pipeline import PipelineModel, TextEncoders

#: What the pipeline puts before a prompt, as its own default.
INSTRUCTION: Sequence[str] = (
    inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
)


class SanaVelocity:
    """A transformer as a ``VelocityModel``, with its output in float32, as its pipeline has it."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of ``latents`` (B, C, H, W) at ``sigma`` (B,). -> (B, C, H, W)."""
        dtype = next(self.transformer.parameters()).dtype
        velocity: Tensor = self.transformer(
            hidden_states=latents.to(dtype),
            timestep=1000 * sigma,
            encoder_hidden_states=condition["prompt_embeds"].to(dtype),
            encoder_attention_mask=condition["prompt_attention_mask"],
            return_dict=False,
        )[0]
        return velocity.float()


class SanaEncoders(TextEncoders):
    """``prompt_embeds`` (B, S, D) and ``prompt_attention_mask`` (B, S), 1 for tokens of a text."""

    @override
    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        condition = self._with_instruction(prompts, INSTRUCTION)
        if "" not in prompts:
            return condition
        # The negative prompt is encoded bare. All rows in both ways, since a batch of another size
        # could round differently.
        bare = self._with_instruction(prompts, ())
        is_empty = [prompt == "" for prompt in prompts]
        for name, value in condition.items():
            value[is_empty] = bare[name][is_empty]
        return condition

    def _with_instruction(
        self, prompts: list[str], instruction: Sequence[str]
    ) -> dict[str, Tensor]:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=list(instruction),
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}


class SanaModel(PipelineModel):
    """A loaded pipeline, which draws by its own solver; rollouts are along Euler's steps."""

    pipeline_type: ClassVar[type[DiffusionPipeline]] = SanaPipeline
    encoders_type: ClassVar[type[TextEncoders]] = SanaEncoders

    @property
    @override
    def schedule(self) -> Schedule:
        """The shift of the scheduler, which is a DPM-Solver where it is the published one."""
        config = self.pipeline.scheduler.config
        return StaticShift(float(config.get("flow_shift", config.get("shift", 1.0))))

    @property
    @override
    def latents_dtype(self) -> torch.dtype:
        return torch.float32

    @override
    def sampling_sigmas(self, num_inference_steps: int) -> Tensor:
        self.pipeline.scheduler.set_timesteps(num_inference_steps, device=self.device)
        sigmas: Tensor = self.pipeline.scheduler.sigmas.clone()
        return sigmas.to(self.device)

    @torch.no_grad()
    @override
    def sample(
        self,
        condition: Condition,
        negative_condition: Mapping[str, Tensor],
        noise: Tensor,
        num_inference_steps: int,
        guidance_scale: float,
        *,
        state_noise: float | None = None,
        generators: Generators = (),
    ) -> Tensor:
        if state_noise is not None:
            return super().sample(
                condition, negative_condition, noise, num_inference_steps, guidance_scale,
                state_noise=state_noise, generators=generators,
            )  # fmt: skip
        scheduler, velocity = self.pipeline.scheduler, self.velocity()
        scheduler.set_timesteps(num_inference_steps, device=self.device)
        latents, conditions = on_device(noise, self.device), (condition, negative_condition)
        for time in scheduler.timesteps:
            sigma = (time / 1000).expand(len(latents))
            v = guided_velocity(velocity, latents, sigma, *conditions, guidance_scale)
            latents = scheduler.step(v, time, latents, return_dict=False)[0]
        return latents

    @override
    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it; ``transformer`` replaces the pipeline's."""
        return SanaVelocity(self.transformer if transformer is None else transformer)

    @override
    def scaled(self, raw: Tensor) -> Tensor:
        latents: Tensor = raw * self.pipeline.vae.config.scaling_factor
        return latents

    @override
    def unscaled(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        raw: Tensor = latents.to(vae.dtype) / vae.config.scaling_factor
        return raw
