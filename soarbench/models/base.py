"""What a family of base models says of itself, and what a loaded model does; imports no framework.

A family is a folder beside this file; everything else asks these three classes of it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args

from baselines.config import LoraConfig
from soarbench.common.errors import ConfigError
from soarbench.common.strict import ADDRESS
from soarbench.models.adapters import adapter_digest

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL import Image
    from torch import Tensor, nn

    from baselines.base import Condition, Generators, Schedule, VelocityModel


Precision = Literal["float32", "bfloat16", "float16"]


class UnknownArchitecture(ConfigError):
    """A hub id whose sizes are not written down here, or a directory that lacks them."""


class PromptEncoder(Protocol):
    """Conditions of prompts: text encoders, or what kept their answers."""

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions, batch first, on the model's device."""


class ImageModel(abc.ABC):
    """A loaded model: its transformer, and encoding, sampling and decoding around it."""

    transformer: nn.Module

    @property
    @abc.abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of latents at the configured resolution."""

    @property
    @abc.abstractmethod
    def schedule(self) -> Schedule:
        """The noise levels of training and sampling."""

    @property
    @abc.abstractmethod
    def scheduler_name(self) -> str:
        """The sampler's class, for fingerprints."""

    @abc.abstractmethod
    def velocity(self, transformer: nn.Module | None = None) -> VelocityModel:
        """The model as methods see it; ``transformer`` replaces its own."""

    @abc.abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions of prompts, batch first."""

    @abc.abstractmethod
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents of RGB images of one size. -> (B, C, H, W) float32."""

    @abc.abstractmethod
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of scaled latents (B, C, H, W)."""

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.transformer.parameters()).device

    @property
    def latents_dtype(self) -> torch.dtype:
        """Of latents between steps of sampling: the transformer's, unless its pipeline differs."""
        return next(self.transformer.parameters()).dtype

    def sampling_sigmas(self, num_inference_steps: int) -> Tensor:
        """The sampler's levels, from 1 (noise) to 0. -> (num_inference_steps + 1,)."""
        sigmas = self.schedule.sampling_sigmas(num_inference_steps, self.latent_shape)
        return sigmas.to(self.device)

    def guide(self, uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
        """How the sampler joins velocities without and with the prompt. -> as the velocities."""
        from baselines.flow import classifier_free_guidance

        return classifier_free_guidance(uncond, cond, guidance_scale)

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
        """Scaled latents at sigma 0, in ``latents_dtype``, by Euler's method from ``noise``.

        Noise is (B, C, H, W), float32; conditions have batch B; a guidance of 1.0 is off, and
        ``state_noise`` is ``euler_sample``'s.
        """
        from baselines.flow import euler_sample
        from evaluators.devices import on_device

        sigmas = self.sampling_sigmas(num_inference_steps)
        # Rounded first, as diffusers' pipelines do: the same noise then gives the same bits.
        noise = on_device(noise, self.device, self.latents_dtype)
        return euler_sample(
            self.velocity(), noise, sigmas, condition, negative_condition, guidance_scale,
            state_noise=state_noise, generators=generators, guide=self.guide,
        )  # fmt: skip


class Architecture(abc.ABC):
    """Sizes of a model, known without its weights; what planning and benchmarks build from."""

    #: Parameters of the autoencoder, and of all text encoders.
    vae_parameters: int
    encoder_parameters: int = 0
    #: Most that text encoders take beside their weights, counted on a pretended GPU. SD3's: 32
    #: prompts of 512 tokens; 64 of 256 take 1.90.
    prompts_gb: ClassVar[float] = 2.06
    #: Numbers in the transformer's files, fixed ones included; 0 where that is not known.
    stored_parameters: int = 0
    #: Whether the weights were trained to draw without guidance, and so without a negative prompt.
    is_distilled: bool = False

    @property
    @abc.abstractmethod
    def unit(self) -> int:
        """Pixels of an image that one token stands for, along a side."""

    @property
    @abc.abstractmethod
    def largest_image(self) -> int:
        """Pixels of the longest side that the transformer knows positions for."""

    @property
    @abc.abstractmethod
    def layers(self) -> tuple[int, ...]:
        """Number of layers of each kind; layers of a kind cost the same."""

    @abc.abstractmethod
    def with_layers(self, layers: Sequence[int]) -> Architecture:
        """The same model with other numbers of layers."""

    def adapter_parameters(self, lora: LoraConfig) -> int:  # noqa: ARG002 (of those that know it)
        """About how many numbers an adapter has; 0 where that is not known."""
        return 0

    @abc.abstractmethod
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, H, W) of an image's latents; ``ConfigError`` for sizes that the model cannot make."""

    @abc.abstractmethod
    def condition_shapes(self, max_sequence_length: int) -> dict[str, tuple[int, ...]]:
        """Shapes of a prompt's condition."""

    def vae_bytes(self, resolution: int) -> float:  # noqa: ARG002 (of those that have one)
        """Most bytes beside weights of encoding or decoding images, of which few go at once."""
        return 0.0

    @abc.abstractmethod
    def transformer(self) -> nn.Module:
        """With initial weights, on torch's default device and of its default type."""

    @abc.abstractmethod
    def velocity(self, transformer: nn.Module) -> VelocityModel:
        """A transformer, wrapped or not, as methods see it."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(abc.ABC):
    """Which model is post-trained, and how it is run; ``UserError`` where files cannot be had.

    Attributes:
        name: Short name, in tables and tags.
        path: Hub id, or a directory in diffusers' layout.
        revision: Hub revision; null takes the default branch.
        resolution: Height and width of images, pixels.
        max_sequence_length: Tokens a prompt of the encoder that takes long ones; 0 without one.
        dtype: Of transformer and text encoders. The autoencoder is always float32, as are noise,
            log-probabilities and losses.
        adapter: Published weights that are evaluated beside the base: hub id
            (``owner/name@revision``) or directory of a LoRA in peft's format or of a transformer.
    """

    #: Of the family, in addresses; stays when the class is moved or renamed.
    kind: ClassVar[str]
    #: Linear layers that an adapter sits at unless ``lora.target_modules`` names others.
    lora_targets: ClassVar[tuple[str, ...]]
    #: Fewest tokens of a prompt.
    least_sequence_length: ClassVar[int] = 0
    #: Class of its transformer in diffusers, as its files name it.
    transformer_class: ClassVar[str]

    # Weights enter addresses by their digest, not by their name or where they lie.
    name: str = field(metadata=ADDRESS)
    path: str = field(metadata=ADDRESS)
    resolution: int
    revision: str | None = field(default=None, metadata=ADDRESS)
    max_sequence_length: int = 256
    dtype: Precision = "float32"
    adapter: str | None = field(default=None, metadata=ADDRESS)

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Precision):
            names = ", ".join(get_args(Precision))
            raise ValueError(f"model.dtype={self.dtype!r}: must be one of {names}")
        if self.resolution < 8:
            raise ValueError(f"model.resolution={self.resolution}: must be at least 8 pixels")
        least = self.least_sequence_length
        if not least <= self.max_sequence_length <= 512:
            raise ValueError(
                f"model.max_sequence_length={self.max_sequence_length}: must be {least}..512"
            )

    def check_here(self) -> None:  # noqa: B027 (of those that have files)
        """Refuse what can be seen to be wrong without the hub, by ``UserError``."""

    def lacks(self, folder: Path) -> str | None:  # noqa: ARG002 (of those that have parts)
        """What a folder of this model lacks, in words; None where all is there."""
        return None

    # By the index of what is to be loaded, a kilobyte, before a first run downloads 15 GB.
    @abc.abstractmethod
    def check_source(self) -> None:
        """Refuse what is out of reach or of another family, by ``UserError``."""

    @abc.abstractmethod
    def load(self, device: torch.device | str, prompts: PromptEncoder | None = None) -> ImageModel:
        """The base model, fresh, without text encoders where ``prompts`` stands in for them."""

    @abc.abstractmethod
    def load_encoders(self, device: torch.device) -> PromptEncoder:
        """The text encoders alone."""

    @abc.abstractmethod
    def architecture(self) -> Architecture:
        """Sizes, without a weight; ``UnknownArchitecture`` where that would take a download."""

    @abc.abstractmethod
    def base_digest(self) -> str:
        """What identifies the base's weights, without loading them; ``UserError`` without any."""

    @abc.abstractmethod
    def encoder_digest(self) -> str:
        """What identifies the text encoders and how they are used; ``UserError`` without any."""

    def weights_digest(self) -> str:
        """The base's digest, with that of the published weights where such are evaluated."""
        if self.adapter is None:
            return self.base_digest()
        return f"{self.base_digest()}+{adapter_digest(self.adapter, self.transformer_class)}"

    def text_facts(self) -> dict[str, object]:
        """How much of a prompt is read, for the fingerprint; empty without an encoder of long ones.

        A family says more where an encoder can be left out.
        """
        tokens = self.max_sequence_length
        return {"max_sequence_length": tokens} if tokens else {}

    def adapted(self, lora: LoraConfig) -> LoraConfig:
        """An adapter with its layers named: the family's, unless it names others."""
        return replace(lora, target_modules=lora.target_modules or self.lora_targets)
