"""Tensors that are computed once: on disk by key, and memory-mapped when they are read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from soarbench.common.files import parts_digest, write_atomically

_KEYS = "keys"

log = logging.getLogger(__name__)


class TensorStore:
    """Entries of named tensors in a folder; a damaged file and its entries are gone."""

    # A file of some entries each, never one of all: an interrupted computation keeps what it has,
    # and several processes can read and write the same folder.

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[Path, int]] = {}
        self._open: dict[Path, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._register(path)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        """An entry's tensors, without a batch axis, on the CPU."""
        path, index = self._places[key]
        opened = self._opened(path)
        return {name: opened.get_slice(name)[index : index + 1][0] for name in opened.keys()}  # noqa: SIM118 (no mapping)

    def __getstate__(self) -> dict[str, object]:
        # What goes to another process: not the open files.
        return self.__dict__ | {"_open": {}}

    def add(self, keys: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        """Write entries of equal shapes into one file; the tensors' first axis is the entries'."""
        path = self.folder / f"{parts_digest(*keys)}.safetensors"
        stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {_KEYS: json.dumps(list(keys))}
        write_atomically(path, lambda partial: save_file(stored, partial, metadata))
        self._open.pop(path, None)
        self._register(path)

    def _register(self, path: Path) -> None:
        try:
            metadata = self._opened(path).metadata() or {}
        except (OSError, SafetensorError) as error:
            log.warning("%s is damaged (%s); its entries are computed again", path, error)
            path.unlink(missing_ok=True)
            return
        for index, key in enumerate(json.loads(metadata.get(_KEYS, "[]"))):
            self._places[key] = (path, index)

    def _opened(self, path: Path) -> Any:  # noqa: ANN401 (safetensors has no types)
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        return self._open[path]
