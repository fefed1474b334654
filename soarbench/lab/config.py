"""What the laboratory configures of its own; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import override

from soarbench.common.files import short_digest
from soarbench.common.strict import ADDRESS
from soarbench.lab.assets import asset_dir, manifest
from soarbench.models.sd3.config import Sd3Config

#: The model path that means the shipped weights.
LABORATORY = "lab"


@dataclass(frozen=True, kw_only=True)
class LabModelConfig(Sd3Config):
    """The laboratory's Stable Diffusion 3, a thousand times smaller; ``path`` may name another.

    The defaults are those of the shipped weights.
    """

    name: str = field(default=LABORATORY, metadata=ADDRESS)
    path: str = field(default=LABORATORY, metadata=ADDRESS)
    resolution: int = 64
    max_sequence_length: int = 0
    load_text_encoder_3: bool = False

    @override
    def source(self) -> str:
        """The verified assets, or the directory or hub id of another pipeline."""
        return str(asset_dir("base")) if self.path == LABORATORY else super().source()

    @override
    def base_digest(self) -> str:
        """Of the manifest, where the shipped weights are meant: it lists every file's digest."""
        if self.path != LABORATORY:
            return super().base_digest()
        # The card lies outside the assets' folders and says nothing that changes a number.
        files = sorted(row for row in manifest().items() if "/" in row[0])
        return short_digest(repr(files).encode())
