"""Weights that others published, evaluated beside the base: LoRAs of peft, whole transformers."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from soarbench.common.errors import ConfigError, UserError
from soarbench.models.hub import class_name, hub_snapshot, is_directory

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)
Shape = tuple[int, ...]
_ADAPTER_FILE = "adapter_config.json"
_PREFIX = "base_model.model."
#: What is fetched of a repository: no text encoders, no optimiser states.
_FILES = (
    f"*{_ADAPTER_FILE}", "*adapter_model.safetensors", "transformer/*", "config.json",
    "diffusion_pytorch_model*",
)  # fmt: skip
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")


def adapter_name(source: str) -> str:
    """A short name for tables and folders: the last part of the directory or hub id."""
    return re.sub(r"[^\w.-]", "_", Path(source.partition("@")[0]).expanduser().name) or "adapter"


def adapter_digest(source: str, transformer: str) -> str:
    """What identifies weights: a directory's content, or the hub id with its revision."""
    if not is_directory(source):
        return source
    folder = weights_folder(Path(source).expanduser(), source, transformer)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def weights_folder(root: Path, source: str, transformer: str) -> Path:
    """Where in a directory the weights lie; ``UserError`` where none do, or several adapters."""
    if (root / _ADAPTER_FILE).is_file():
        return root
    adapters = sorted(path.parent for path in root.rglob(_ADAPTER_FILE)) if root.is_dir() else []
    if len(adapters) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in adapters[:2])
        raise ConfigError(f"model.adapter={source}: holds several adapters ({names}); name one")
    if adapters:
        return adapters[0]
    for folder in (root / "transformer", root):
        config = folder / "config.json"
        if config.is_file() and class_name(config, f"model.adapter={source}") == transformer:
            return folder
    raise ConfigError(
        f"model.adapter={source}: neither a LoRA in peft's format ({_ADAPTER_FILE}) nor a "
        f"{transformer} of diffusers; give a directory or hub id that holds one"
    )


def header_shapes(path: Path) -> dict[str, Shape]:
    """Names and shapes of a safetensors file's tensors, of which none is read."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _stored_shapes(folder: Path, source: str) -> dict[str, Shape]:
    """Those of a folder's files; ``UserError`` where it has none, or one is damaged."""
    shapes: dict[str, Shape] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shapes |= header_shapes(path)
        # A damaged length asks for all memory, and a damaged header may be any JSON.
        except (ValueError, OverflowError, MemoryError, AttributeError, TypeError, KeyError) as e:
            raise UserError(f"model.adapter={source}: {path.name} is no safetensors file") from e
    if not shapes:
        raise UserError(f"model.adapter={source}: {folder} holds no safetensors file")
    return shapes


def _check_weights(own: Mapping[str, Shape], folder: Path, source: str, *, base: str) -> None:
    """Refuse weights that are not for a transformer of such shapes, before they are loaded."""
    # peft is not strict: a LoRA for another model would be loaded nowhere and draw base images.
    stored = _stored_shapes(folder, source)
    is_adapter = (folder / _ADAPTER_FILE).is_file()
    wrong = _misplaced(own, stored) if is_adapter else _different(own, stored)
    first = next(iter(wrong), None)
    if first is not None:
        kind = "a LoRA" if is_adapter else "weights"
        raise UserError(f"model.adapter={source}: {kind} for another model than {base} ({first})")


def _misplaced(own: Mapping[str, Shape], stored: Mapping[str, Shape]) -> Iterable[str]:
    for name, shape in stored.items():
        match = _FACTOR.fullmatch(name.removeprefix(_PREFIX))
        if match is None:
            yield f"{name} is no factor of a LoRA"
            continue
        weight = own.get(f"{match['module']}.weight")
        if weight is None:
            yield f"it has no {match['module']}"
        elif match["side"] == "A" and shape[1:] != weight[1:]:
            yield f"{match['module']} takes {weight[1]} inputs, the LoRA's {shape[1]}"
        elif match["side"] == "B" and shape[0] != weight[0]:
            yield f"{match['module']} gives {weight[0]} outputs, the LoRA's {shape[0]}"


def _different(own: Mapping[str, Shape], stored: Mapping[str, Shape]) -> Iterable[str]:
    for name in sorted(own.keys() ^ stored.keys()):
        yield f"{name} is in one of them alone"
    for name in sorted(own.keys() & stored.keys()):
        if own[name] != stored[name]:
            yield f"{name} is {own[name]} there and {stored[name]} here"


def adapter_root(source: str) -> Path:
    """The directory of published weights, or the hub's snapshot; ``UserError`` without it."""
    if is_directory(source):
        return Path(source).expanduser()
    repo, _, revision = source.partition("@")
    root = hub_snapshot("model.adapter", repo, revision or None, _FILES)
    # A branch moves: which commit numbers are of must be known afterwards.
    if root.name != revision:
        log.info("model.adapter=%s is revision %s", source, root.name)
    return root


def apply_adapter(transformer: nn.Module, source: str, *, base: str) -> None:
    """Give a base's transformer published weights, in place; ``UserError`` for another model's."""
    # Configurations import this file, and peft takes seconds.
    from baselines.loop.weights import start_from

    folder = weights_folder(adapter_root(source), source, type(transformer).__name__)
    own = {name: tuple(value.shape) for name, value in transformer.state_dict().items()}
    _check_weights(own, folder, source, base=base)
    start_from(transformer, folder)
    transformer.requires_grad_(False).eval()
