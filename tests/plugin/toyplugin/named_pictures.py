"""A form of training data: a folder of pictures that are named by what they show."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from soarbench.common.errors import ConfigError
from soarbench.data.config import ImageDataConfig
from soarbench.data.records import Record


@dataclass(frozen=True, kw_only=True)
class NamedPicturesConfig(ImageDataConfig):
    """``a red square.0.png`` shows a red square; what is before the first stop is the caption."""

    kind: ClassVar[str] = "named_pictures"

    def _files(self) -> list[Path]:
        files = sorted(Path(str(self.path)).expanduser().glob("*.png"))
        if not files:
            raise ConfigError(f"data.path={self.path}: no .png file there")
        return files

    @override
    def own_content(self) -> str:
        # In the address of what is trained on it: other pictures are another training.
        content = hashlib.sha256()
        for path in self._files():
            content.update(path.name.encode() + path.read_bytes())
        return content.hexdigest()

    @override
    def own_records(self) -> Iterator[Record]:
        for path in self._files():
            yield Record(
                key=path.name,
                place=str(path),
                caption=path.name.partition(".")[0],
                open=functools.partial(path.open, "rb"),
            )
