"""A loaded pipeline of diffusers: what families of them share."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from evaluators.batches import at_once
from evaluators.devices import on_device
from soarbench.common.errors import UserError
from soarbench.models.base import ImageModel, PromptEncoder
from soarbench.models.hub import first_line
from soarbench.models.pipeline_architecture import images_at_once
from soarbench.models.pipeline_config import PipelineConfig
from soarbench.models.quiet import quiet_libraries

#: Prompts that go through the text encoders at once, and tokens of one.
_PROMPTS, _PROMPT_TOKENS = 64, 256


def prompts_at_once(tokens: int) -> int:
    """How many prompts of so many tokens go through the text encoders at once."""
    return at_once(_PROMPTS, tokens, usual=_PROMPT_TOKENS)


@contextlib.contextmanager
def explained(config: PipelineConfig, fault: str) -> Iterator[None]:
    """What diffusers says of files that it cannot load, as a ``UserError``."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.path={config.path}: {fault} ({first_line(error)}); check the directory, the "
            "hub id and HF_HUB_OFFLINE"
        ) from error


def modules_of(pipeline: DiffusionPipeline) -> Iterator[nn.Module]:
    """The parts of a pipeline that have weights."""
    return (part for part in pipeline.components.values() if isinstance(part, nn.Module))


@dataclass(frozen=True)
class TextEncoders(abc.ABC):
    """A pipeline's text encoders, without the rest of it."""

    pipeline: Any
    max_sequence_length: int
    device: torch.device

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions, batch first, on the device."""
        count = prompts_at_once(self.max_sequence_length)
        starts = range(0, len(prompts), count)
        parts = [self._encoded(list(prompts[start : start + count])) for start in starts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @abc.abstractmethod
    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        """Conditions of prompts that go through the encoders together."""


@dataclass(eq=False)
class PipelineModel(ImageModel):
    """A loaded pipeline, without its text encoders where ``prompts`` takes their place."""

    #: The pipeline's class.
    pipeline_type: ClassVar[type[DiffusionPipeline]]
    encoders_type: ClassVar[type[TextEncoders]]
    #: Parts that kept prompts take the place of.
    encoder_parts: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")

    pipeline: Any
    config: PipelineConfig
    prompts: PromptEncoder | None = None

    def __post_init__(self) -> None:
        self.transformer = self.pipeline.transformer

    @classmethod
    def load(
        cls,
        config: PipelineConfig,
        device: torch.device | str = "cpu",
        prompts: PromptEncoder | None = None,
    ) -> Self:
        """Load a pipeline; ``UserError`` where a directory or hub id cannot be loaded."""
        absent = {} if prompts is None else dict.fromkeys(cls.encoder_parts)
        return cls(cls.load_pipeline(config, absent).to(device), config, prompts)

    @classmethod
    def load_pipeline(
        cls, config: PipelineConfig, options: Mapping[str, object]
    ) -> DiffusionPipeline:
        """Load a pipeline, frozen; ``options`` replaces parts of it."""
        unused = dict.fromkeys(config.unused_parts)
        quiet_libraries()
        source = config.source()
        with explained(config, f"cannot be loaded as {config.pipeline_class}"):
            pipeline: DiffusionPipeline = cls.pipeline_type.from_pretrained(
                source,
                revision=config.revision,
                # SOAR's evaluation decodes under bf16 autocast; judges would score its rounding.
                dtype={"default": getattr(torch, config.dtype), "vae": torch.float32},
                **(unused | dict(options)),
            )
        pipeline.set_progress_bar_config(disable=True)
        for part in modules_of(pipeline):
            part.requires_grad_(False).eval()
        return pipeline

    @classmethod
    def load_encoders(cls, config: PipelineConfig, device: torch.device) -> TextEncoders:
        """Load the text encoders alone."""
        pipeline = cls.load_pipeline(config, {"transformer": None, "vae": None})
        for part in modules_of(pipeline):
            part.to(device)
        return cls.encoders_type(pipeline, config.max_sequence_length, device)

    @property
    def stride(self) -> int:
        """Pixels of an image along one latent."""
        return int(self.pipeline.vae_scale_factor)

    @property
    @override
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of latents at the configured resolution."""
        side = self.config.resolution // self.stride
        return int(self.pipeline.transformer.config.in_channels), side, side

    @property
    @override
    def scheduler_name(self) -> str:
        """The sampler's class in diffusers."""
        return type(self.pipeline.scheduler).__name__

    @override
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions of prompts, batch first."""
        length = self.config.max_sequence_length
        encoders = self.prompts or self.encoders_type(self.pipeline, length, self.device)
        return encoders.encode(prompts)

    @abc.abstractmethod
    def scaled(self, raw: Tensor) -> Tensor:
        """The autoencoder's latents as the transformer takes them, (B, C, H, W), float32."""

    @abc.abstractmethod
    def unscaled(self, latents: Tensor) -> Tensor:
        """What ``scaled`` was given; in the autoencoder's type."""

    def encoded(self, pixels: Tensor) -> Tensor:
        """The autoencoder's latents of pixels in -1..1, (B, 3, H, W)."""
        encoded = self.pipeline.vae.encode(pixels)
        # HY-SOAR samples the posterior anew each time; its mode can be kept on disk.
        is_gaussian = hasattr(encoded, "latent_dist")
        latents: Tensor = encoded.latent_dist.mode() if is_gaussian else encoded.latent
        return latents

    def decoded(self, raw: Tensor) -> Tensor:
        """Pixels, (B, 3, H, W), of the autoencoder's latents."""
        pixels: Tensor = self.pipeline.vae.decode(raw, return_dict=False)[0]
        return pixels

    @torch.no_grad()
    @override
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents of RGB images of one size. -> (B, C, H, W) float32."""
        vae = self.pipeline.vae
        parts = []
        width, height = images[0].size
        batch = images_at_once(width * height)
        for start in range(0, len(images), batch):
            # Without a size it takes the images' own.
            pixels = self.pipeline.image_processor.preprocess(list(images[start : start + batch]))
            parts.append(self.encoded(on_device(pixels, vae.device, vae.dtype)))
        return self.scaled(torch.cat(parts))

    @torch.no_grad()
    @override
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of scaled latents (B, C, H, W), as the pipeline itself decodes them."""
        images: list[Image.Image] = []
        height, width = latents.shape[-2:]
        for part in latents.split(images_at_once(height * width * self.stride**2)):
            drawn = self.decoded(self.unscaled(part))
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
