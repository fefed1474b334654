"""The only file that knows diffusers' Stable Diffusion 3 names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from torch import Tensor, nn

from baselines.base import Condition, VelocityModel
from baselines.schedule import Schedule, StaticShift
from evaluators.batches import at_once
from evaluators.devices import on_device
from soarbench.common.errors import UserError
from soarbench.models.base import ImageModel, PromptEncoder
from soarbench.models.hub import first_line
from soarbench.models.quiet import quiet_libraries
from soarbench.models.sd3.config import Sd3Config

#: Prompts that go through the text encoders at once, and tokens of one.
_PROMPTS, _PROMPT_TOKENS = 64, 256
#: Images that go through the autoencoder at once, and pixels of one: 4 of 512 px. To decode one of
#: 512 px SD3's takes 0.8 GB: 64 of them took 51 GB, beside a rollout on an 80 GB card.
_IMAGES, _IMAGE_PIXELS = 64, 128**2
_ENCODERS = tuple(
    f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")
)


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


@contextlib.contextmanager
def _explained(config: Sd3Config, fault: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.path={config.path}: {fault} ({first_line(error)}); check the directory, the "
            "hub id and HF_HUB_OFFLINE"
        ) from error


def _load_pipeline(config: Sd3Config, options: Mapping[str, object]) -> StableDiffusion3Pipeline:
    """Load a pipeline; ``options`` replaces parts of it."""
    absent: dict[str, object] = {"image_encoder": None, "feature_extractor": None}
    if not config.load_text_encoder_3:
        absent |= {"text_encoder_3": None, "tokenizer_3": None}
    source = config.source()
    quiet_libraries()
    with _explained(config, "cannot be loaded as StableDiffusion3Pipeline"):
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            source,
            revision=config.revision,
            # SOAR's evaluation decodes under bf16 autocast; judges would score its rounding.
            dtype={"default": getattr(torch, config.dtype), "vae": torch.float32},
            **(absent | dict(options)),
        )
    if config.vae_channels_last and pipeline.vae is not None:
        pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    for part in _modules(pipeline):
        part.requires_grad_(False).eval()
    return pipeline


def _modules(pipeline: StableDiffusion3Pipeline) -> Iterator[nn.Module]:
    return (part for part in pipeline.components.values() if isinstance(part, nn.Module))


def load_encoders(config: Sd3Config, device: torch.device) -> TextEncoders:
    """Load the text encoders alone."""
    with _explained(config, "has no transformer"):
        sizes = SD3Transformer2DModel.load_config(
            config.source(), subfolder="transformer", revision=config.revision
        )
    # The pipeline takes sizes from its transformer, which needs no weights for that.
    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(sizes)
    pipeline = _load_pipeline(config, {"transformer": transformer, "vae": None})
    for part in _modules(pipeline):
        if part is not transformer:
            part.to(device)
    return TextEncoders(pipeline, config.max_sequence_length, device)


@dataclass(frozen=True)
class TextEncoders:
    """A pipeline's text encoders, without the rest of it."""

    pipeline: StableDiffusion3Pipeline
    max_sequence_length: int
    device: torch.device

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``prompt_embeds`` (B, S, D) and ``pooled_prompt_embeds`` (B, P), on the device."""
        parts = []
        count = prompts_at_once(self.max_sequence_length)
        for start in range(0, len(prompts), count):
            embeds, _, pooled, _ = self.pipeline.encode_prompt(
                list(prompts[start : start + count]),
                None,
                None,
                device=self.device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.max_sequence_length,
            )
            parts.append({"prompt_embeds": embeds, "pooled_prompt_embeds": pooled})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def prompts_at_once(tokens: int) -> int:
    """How many prompts of so many tokens go through the text encoders at once."""
    return at_once(_PROMPTS, tokens, usual=_PROMPT_TOKENS)


def images_at_once(pixels: int) -> int:
    """How many images of so many pixels go through the autoencoder at once."""
    return at_once(_IMAGES, pixels, usual=_IMAGE_PIXELS)


@dataclass(eq=False)
class SD3Model(ImageModel):
    """A loaded pipeline, without its text encoders where ``prompts`` takes their place."""

    pipeline: StableDiffusion3Pipeline
    config: Sd3Config
    prompts: PromptEncoder | None = None

    def __post_init__(self) -> None:
        self.transformer = self.pipeline.transformer

    @classmethod
    def load(
        cls,
        config: Sd3Config,
        device: torch.device | str = "cpu",
        prompts: PromptEncoder | None = None,
    ) -> SD3Model:
        """Load a pipeline; ``UserError`` where a directory or hub id cannot be loaded."""
        absent = {} if prompts is None else dict.fromkeys(_ENCODERS)
        return cls(_load_pipeline(config, absent).to(device), config, prompts)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of latents at the configured resolution."""
        side = self.config.resolution // self.pipeline.vae_scale_factor
        return int(self.pipeline.transformer.config.in_channels), side, side

    @property
    def schedule(self) -> Schedule:
        """The scheduler's ``shift``; SD3.5-M: 3.0."""
        return StaticShift(float(self.pipeline.scheduler.config.shift))

    @property
    def scheduler_name(self) -> str:
        """The sampler's class in diffusers."""
        return type(self.pipeline.scheduler).__name__

    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it; ``transformer`` replaces the pipeline's."""
        return SD3Velocity(self.transformer if transformer is None else transformer)

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions of prompts. -> prompt_embeds (B, S, D), pooled_prompt_embeds (B, P)."""
        length = self.config.max_sequence_length
        return (self.prompts or TextEncoders(self.pipeline, length, self.device)).encode(prompts)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents of RGB images of one size. -> (B, C, H, W) float32."""
        vae = self.pipeline.vae
        parts = []
        width, height = images[0].size
        batch = images_at_once(width * height)
        for start in range(0, len(images), batch):
            # Without a size it takes the images' own.
            pixels = self.pipeline.image_processor.preprocess(list(images[start : start + batch]))
            encoded = vae.encode(on_device(pixels, vae.device, vae.dtype))
            # HY-SOAR samples the posterior anew each time; its mode can be kept on disk.
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
        batch = images_at_once(height * width * self.pipeline.vae_scale_factor**2)
        for part in latents.split(batch):
            raw = part.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
            drawn = vae.decode(raw, return_dict=False)[0]
            pixels = self.pipeline.image_processor.postprocess(drawn, output_type="np")
            # Here, since a look at the GPU's tensors would be waited for.
            if not np.isfinite(pixels).all():
                # As an image they are black, which a judge would score like any other.
                raise UserError(
                    f"model.path={self.config.path}: drew latents that are not finite; the weights "
                    "hold nan or inf, or sampling.guidance_scale is too large"
                )
            images += self.pipeline.image_processor.numpy_to_pil(pixels)
        return images
