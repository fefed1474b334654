"""Families whose weights are a pipeline of diffusers: where it lies; imports no framework."""

from __future__ import annotations

from abc import ABC
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from soarbench.common.errors import UserError
from soarbench.common.files import parts_digest
from soarbench.models.base import ImageModel, ModelConfig, PromptEncoder
from soarbench.models.hub import class_name, folder_digest, hub_file, is_directory, model_json

if TYPE_CHECKING:
    import torch

_INDEX = "model_index.json"


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(ModelConfig, ABC):
    """A pipeline, in a directory or on the hub."""

    #: Class of the pipeline in diffusers, as its index names it.
    pipeline_class: ClassVar[str]
    #: The family's ``PipelineModel``. By name, as YAML names a class: it imports its configuration.
    model_class: ClassVar[str]

    def source(self) -> str:
        """Directory or hub id; ``UserError`` where a directory holds no such pipeline."""
        if not is_directory(self.path):
            return self.path
        folder = Path(self.path).expanduser()
        index = folder / _INDEX
        if not index.is_file():
            raise UserError(
                f"model.path={self.path}: no {_INDEX} there; give a directory saved by "
                f"{self.pipeline_class}.save_pretrained, or a hub id"
            )
        self._check_index(index)
        return str(folder)

    def _check_index(self, index: Path) -> None:
        name = class_name(index, f"model.path={self.path}")
        if name != self.pipeline_class:
            raise UserError(
                f"model.path={self.path}: holds a {name}, and this model's family loads "
                f"{self.pipeline_class}; choose another model=NAME, or other weights"
            )

    @property
    def unused_parts(self) -> Set[str]:
        """Parts of the pipeline that are not loaded."""
        return frozenset()

    @override
    def check_source(self) -> None:
        source = self.source()
        if not is_directory(source):
            self._check_index(hub_file("model.path", source, self.revision, _INDEX))
            return
        index = model_json(Path(source) / _INDEX, f"model.path={self.path}")
        for name, part in index.items():
            is_part = isinstance(part, list) and part[:1] != [None]
            if is_part and name not in self.unused_parts and not (Path(source) / name).is_dir():
                raise UserError(
                    f"model.path={self.path}: no {name}/ there, which its {_INDEX} names; copy it "
                    f"there from where the rest is from, or save the {self.pipeline_class} anew"
                )

    @override
    def load(self, device: torch.device | str, prompts: PromptEncoder | None = None) -> ImageModel:
        model: ImageModel = resolve_name(self.model_class).load(self, device, prompts)
        return model

    @override
    def load_encoders(self, device: torch.device) -> PromptEncoder:
        encoders: PromptEncoder = resolve_name(self.model_class).load_encoders(self, device)
        return encoders

    @override
    def base_digest(self) -> str:
        return self._digest()

    @override
    def encoder_digest(self) -> str:
        # Not of the transformer: weights that share their encoders share what is encoded.
        return parts_digest(self._encoder_weights(), self.max_sequence_length, self.dtype)

    def _encoder_weights(self) -> str:
        return self._digest("text_encoder*", "tokenizer*")

    def _digest(self, *parts: str) -> str:
        source = self.source()
        if is_directory(source):
            return folder_digest(Path(source), *parts)
        return f"{source}@{self.revision}"
