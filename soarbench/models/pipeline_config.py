"""Families whose weights are a pipeline of diffusers: where it lies; imports no framework."""

from __future__ import annotations

from abc import ABC
from collections.abc import Set
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from soarbench.common.errors import UserError
from soarbench.common.files import parts_digest
from soarbench.models.base import ImageModel, ModelConfig, PromptEncoder
from soarbench.models.hub import (
    cached_file,
    class_name,
    folder_digest,
    hub_file,
    is_directory,
    model_json,
)

if TYPE_CHECKING:
    import torch

_INDEX = "model_index.json"
#: Beginnings of the names of parts that have weights, and what those are called.
_WITH_WEIGHTS = ("transformer", "vae", "text_encoder")
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(ModelConfig, ABC):
    """A pipeline, in a directory or on the hub."""

    #: Class of the pipeline in diffusers, as its index names it.
    pipeline_class: ClassVar[str]
    least_sequence_length: ClassVar[int] = 1
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
        self.check_here()
        source = self.source()
        if not is_directory(source):
            self._check_index(hub_file("model.path", source, self.revision, _INDEX))

    @override
    def check_here(self) -> None:
        source = self.source()
        if is_directory(source):
            self._check_parts(Path(source))
            return
        index = cached_file("model.path", source, self.revision, _INDEX)
        if index is not None:
            self._check_index(index)

    @override
    def lacks(self, folder: Path) -> str | None:
        index = model_json(folder / _INDEX, f"model.path={self.path}")
        parts = [name for name, part in index.items() if isinstance(part, list) and part[0]]
        faults = (_fault(folder / name) for name in parts if name not in self.unused_parts)
        return next((fault for fault in faults if fault is not None), None)

    def _check_parts(self, folder: Path) -> None:
        fault = self.lacks(folder)
        if fault is not None:
            raise UserError(
                f"model.path={self.path}: {fault}, which its {_INDEX} names; copy it there from "
                f"where the rest is from, or save the {self.pipeline_class} anew"
            )
        config = folder / "transformer/config.json"
        kind = class_name(config, f"model.path={self.path}") if config.is_file() else None
        if kind not in (None, self.transformer_class):
            raise UserError(
                f"model.path={self.path}: transformer/ holds a {kind}, and this model's family "
                f"trains {self.transformer_class}; choose another model=NAME, or other weights"
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
        # Not of the transformer: weights that share their encoders share what is encoded. Families
        # that share an encoder do not: each has a template, most of them in diffusers.
        use = (self.kind, self.max_sequence_length, self.dtype, version("diffusers"))
        return parts_digest(self._encoder_weights(), *use)

    def _encoder_weights(self) -> str:
        return self._digest("text_encoder*", "tokenizer*")

    def _digest(self, *parts: str) -> str:
        source = self.source()
        if is_directory(source):
            return folder_digest(Path(source), *parts)
        return f"{source}@{self.revision}"


def _fault(part: Path) -> str | None:
    """What a folder of a pipeline lacks."""
    if not part.is_dir():
        return f"no {part.name}/ there"
    if not part.name.startswith(_WITH_WEIGHTS):
        return None if any(part.iterdir()) else f"nothing in {part.name}/"
    if not any(path for pattern in _WEIGHTS for path in part.glob(pattern)):
        return f"no weights in {part.name}/"
    shards = {
        str(name)
        for path in part.glob("*.safetensors.index.json")
        for name in model_json(path, str(path)).get("weight_map", {}).values()
    }
    absent = sorted(name for name in shards if not (part / name).is_file())
    return f"no {part.name}/{absent[0]} there" if absent else None
