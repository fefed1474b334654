"""The only file that knows diffusers' Stable Diffusion 3 names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from torch import Tensor, nn

from baselines.base import Condition, VelocityModel
from baselines.flow import euler_sample
from soarbench.common.errors import UserError
from soarbench.models.base import PromptEncoder
from soarbench.models.quiet import quiet_libraries
from soarbench.models.sd3.config import Sd3Config

_BATCH = 64
#: Pixels that the VAE encodes or decodes at once: 64 images of 64 px, 4 of 512 px; to decode one
#: of 512 px SD3's takes 0.8 GB.
_VAE_PIXELS = 2**20
_ENCODERS = tuple(
    f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")
)


class SD3Velocity:
    """A transformer as a ``VelocityModel``: timestep = 1000 sigma, output in the model's dtype."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of ``latents`` (B, C, H, W) at ``sigma`` (B,). -> (B, C, H, W)."""
        dtype = next(self.transformer.parameters()).dtype
        velocity: Tensor = self.transformer(
            hidden_states=latents.to(dtype),
            timestep=1000 * sigma,
            encoder_hidden_states=condition["prompt_embeds"].to(dtype),
            pooled_projections=condition["pooled_prompt_embeds"].to(dtype),
            return_dict=False,
        )[0]
        return velocity


def _load_pipeline(config: Sd3Config, options: Mapping[str, object]) -> StableDiffusion3Pipeline:
    """Load a pipeline, the VAE in float32; ``options`` replaces parts of it.

    Raises:
        UserError: The directory or hub id cannot be loaded.
    """
    absent: dict[str, object] = {"image_encoder": None, "feature_extractor": None}
    if not config.load_text_encoder_3:
        absent |= {"text_encoder_3": None, "tokenizer_3": None}
    source = config.source()
    quiet_libraries()
    try:
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            source,
            revision=config.revision,
            dtype={"default": getattr(torch, config.dtype), "vae": torch.float32},
            **(absent | dict(options)),
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model.path={config.path}: cannot be loaded as StableDiffusion3Pipeline "
            f"({reason}); check the directory, the hub id and HF_HUB_OFFLINE"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    return pipeline


def load_encoders(config: Sd3Config, device: torch.device) -> TextEncoders:
    """Load the text encoders alone; the transformer has its sizes, but no weights.

    Raises:
        UserError: The directory or hub id cannot be loaded.
    """
    source = config.source()
    try:
        sizes = SD3Transformer2DModel.load_config(
            source, subfolder="transformer", revision=config.revision
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model.path={config.path}: has no transformer ({reason}); check the directory, the "
            "hub id and HF_HUB_OFFLINE"
        ) from error
    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(sizes)
    pipeline = _load_pipeline(config, {"transformer": transformer, "vae": None})
    for name in _ENCODERS:
        part = getattr(pipeline, name)
        if isinstance(part, nn.Module):
            part.to(device)
    return TextEncoders(pipeline, config.max_sequence_length, device)


@torch.no_grad()
def encode_with(
    pipeline: StableDiffusion3Pipeline,
    prompts: Sequence[str],
    max_sequence_length: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Encode a batch of prompts with every text encoder of a pipeline.

    Returns:
        ``prompt_embeds`` (B, S, D) and ``pooled_prompt_embeds`` (B, P), on ``device``.
    """
    prompt_embeds, _, pooled_prompt_embeds, _ = pipeline.encode_prompt(
        list(prompts),
        None,
        None,
        device=device,
        do_classifier_free_guidance=False,
        max_sequence_length=max_sequence_length,
    )
    return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds}


class TextEncoders:
    """A pipeline's text encoders, without the rest of it."""

    def __init__(
        self, pipeline: StableDiffusion3Pipeline, max_sequence_length: int, device: torch.device
    ) -> None:
        self.pipeline = pipeline
        self.max_sequence_length = max_sequence_length
        self.device = device

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions, batch first."""
        return encode_with(self.pipeline, prompts, self.max_sequence_length, self.device)


def _vae_batch(pixels: int) -> int:
    """How many images of so many pixels go through the VAE at once."""
    return min(_BATCH, max(1, _VAE_PIXELS // pixels))


class SD3Model:
    """A loaded pipeline: its transformer, and encoding, sampling and decoding around it.

    Args:
        pipeline: With its text encoders, unless ``prompts`` takes their place.
        config: What it was loaded from.
        prompts: Where conditions come from; null: the pipeline's own encoders.
    """

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        config: Sd3Config,
        prompts: PromptEncoder | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.config = config
        self.prompts = prompts
        self.transformer: nn.Module = pipeline.transformer

    @classmethod
    def load(
        cls,
        config: Sd3Config,
        device: torch.device | str = "cpu",
        prompts: PromptEncoder | None = None,
    ) -> SD3Model:
        """Load a pipeline; the VAE always in float32, text encoders only without ``prompts``.

        Raises:
            UserError: The directory or hub id cannot be loaded.
        """
        absent = {} if prompts is None else dict.fromkeys(_ENCODERS)
        return cls(_load_pipeline(config, absent).to(device), config, prompts)

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.transformer.parameters()).device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of latents at the configured resolution."""
        side = self.config.resolution // self.pipeline.vae_scale_factor
        return int(self.pipeline.transformer.config.in_channels), side, side

    @property
    def training_shift(self) -> float:
        """The scheduler's ``shift``; SD3.5-M: 3.0."""
        return float(self.pipeline.scheduler.config.shift)

    @property
    def scheduler_name(self) -> str:
        """The sampler's class in diffusers."""
        return type(self.pipeline.scheduler).__name__

    def sampling_sigmas(self, num_inference_steps: int) -> Tensor:
        """The pipeline's own schedule, from 1 (noise) to 0. -> (num_inference_steps + 1,)."""
        self.pipeline.scheduler.set_timesteps(num_inference_steps, device=self.device)
        sigmas: Tensor = self.pipeline.scheduler.sigmas.clone()
        return sigmas

    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it; ``transformer`` replaces the pipeline's."""
        return SD3Velocity(self.transformer if transformer is None else transformer)

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions of prompts. -> prompt_embeds (B, S, D), pooled_prompt_embeds (B, P)."""
        if self.prompts is not None:
            return self.prompts.encode(prompts)
        length = self.config.max_sequence_length
        parts = [
            encode_with(self.pipeline, prompts[start : start + _BATCH], length, self.device)
            for start in range(0, len(prompts), _BATCH)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents of RGB images of one size. -> (B, C, H, W) float32.

        The posterior's mode is taken, not a sample of it, so that latents can be cached.
        """
        vae = self.pipeline.vae
        parts = []
        width, height = images[0].size
        batch = _vae_batch(width * height)
        for start in range(0, len(images), batch):
            # Without a size it takes the images' own.
            pixels = self.pipeline.image_processor.preprocess(list(images[start : start + batch]))
            encoded = vae.encode(pixels.to(vae.device, vae.dtype))
            is_gaussian = hasattr(encoded, "latent_dist")
            parts.append(encoded.latent_dist.mode() if is_gaussian else encoded.latent)
        latents: Tensor = (torch.cat(parts) - vae.config.shift_factor) * vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of scaled latents (B, C, H, W), as the pipeline itself decodes them."""
        vae = self.pipeline.vae
        images: list[Image.Image] = []
        height, width = latents.shape[-2:]
        batch = _vae_batch(height * width * self.pipeline.vae_scale_factor**2)
        for part in latents.split(batch):
            raw = part.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
            drawn = vae.decode(raw, return_dict=False)[0]
            images += self.pipeline.image_processor.postprocess(drawn, output_type="pil")
        return images

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        negative_condition: Mapping[str, Tensor],
        noise: Tensor,
        num_inference_steps: int,
        guidance_scale: float,
    ) -> Tensor:
        """Euler sampling with the pipeline's schedule and classifier-free guidance.

        Args:
            condition: Of the prompts, batch B.
            negative_condition: Of the empty prompt, batch B.
            noise: (B, C, H, W) float32.
            num_inference_steps: Solver steps.
            guidance_scale: 1.0 is off.

        Returns:
            Scaled latents at sigma 0; (B, C, H, W), in the transformer's dtype: bit for bit what
            the pipeline's own call gives for the same noise.
        """
        sigmas = self.sampling_sigmas(num_inference_steps)
        noise = noise.to(self.device, next(self.transformer.parameters()).dtype)
        return euler_sample(
            self.velocity(), noise, sigmas, condition, negative_condition, guidance_scale
        )
