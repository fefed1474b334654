"""Stable Diffusion 3 and 3.5: where a pipeline lies and how it is run; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from soarbench.common.errors import UserError
from soarbench.common.files import parts_digest
from soarbench.common.strict import ADDRESS
from soarbench.models.base import ImageModel, ModelConfig, PromptEncoder
from soarbench.models.hub import class_name, folder_digest, hub_file, is_directory
from soarbench.models.sd3.architecture import Sd3Architecture, architecture_of

if TYPE_CHECKING:
    import torch

PIPELINE_CLASS = "StableDiffusion3Pipeline"
#: By name, as YAML names a class: the model imports its configuration.
_MODEL = "soarbench.models.sd3.model"


@dataclass(frozen=True, kw_only=True)
class Sd3Config(ModelConfig):
    """A pipeline of Stable Diffusion 3's architecture.

    Attributes:
        load_text_encoder_3: Whether the pipeline's T5 is loaded at all (SD3.5: optional).
        vae_channels_last: Whether the autoencoder keeps channels last in memory, for which GPUs may
            have faster convolutions; latents and images differ in the last bits.
    """

    kind: ClassVar[str] = "sd3"
    # Where Flow-GRPO adapts it: the linear layers of the joint attention. Those of SD3.5-M's second
    # attention, ``attn2``, it leaves alone.
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    transformer_class: ClassVar[str] = "SD3Transformer2DModel"

    load_text_encoder_3: bool = True
    # ``weights_digest`` says where it is on, so that addresses older than it stay as they are.
    vae_channels_last: bool = field(default=False, metadata=ADDRESS)

    def source(self) -> str:
        """Directory or hub id; ``UserError`` where a directory holds no such pipeline."""
        if not is_directory(self.path):
            return self.path
        folder = Path(self.path).expanduser()
        index = folder / "model_index.json"
        if not index.is_file():
            raise UserError(
                f"model.path={self.path}: no model_index.json there; give a directory saved by "
                f"{PIPELINE_CLASS}.save_pretrained, or a hub id"
            )
        self._check_index(index)
        return str(folder)

    def _check_index(self, index: Path) -> None:
        name = class_name(index, f"model.path={self.path}")
        if name != PIPELINE_CLASS:
            raise UserError(
                f"model.path={self.path}: holds a {name}, and this model's family loads "
                f"{PIPELINE_CLASS}; choose another model=NAME, or other weights"
            )

    @override
    def check_source(self) -> None:
        source = self.source()
        if not is_directory(source):
            self._check_index(hub_file("model.path", source, self.revision, "model_index.json"))

    @override
    def load(self, device: torch.device | str, prompts: PromptEncoder | None = None) -> ImageModel:
        model: ImageModel = resolve_name(f"{_MODEL}:SD3Model").load(self, device, prompts)
        return model

    @override
    def load_encoders(self, device: torch.device) -> PromptEncoder:
        encoders: PromptEncoder = resolve_name(f"{_MODEL}:load_encoders")(self, device)
        return encoders

    @override
    def architecture(self) -> Sd3Architecture:
        return architecture_of(self.source())

    @override
    def base_digest(self) -> str:
        return self._digest()

    @override
    def weights_digest(self) -> str:
        digest = super().weights_digest()
        return f"{digest}+vae_channels_last" if self.vae_channels_last else digest

    @override
    def encoder_digest(self) -> str:
        # Not of the transformer: weights that share their encoders share what is encoded.
        weights = self._digest("text_encoder*", "tokenizer*")
        return parts_digest(weights, self.max_sequence_length, self.load_text_encoder_3, self.dtype)

    @override
    def text_facts(self) -> dict[str, object]:
        facts = super().text_facts()
        return facts | ({"load_text_encoder_3": self.load_text_encoder_3} if facts else {})

    def _digest(self, *parts: str) -> str:
        source = self.source()
        if is_directory(source):
            return folder_digest(Path(source), *parts)
        return f"{source}@{self.revision}"
