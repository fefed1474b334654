"""The files of a probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Table = Literal["images", "norms", "deviations"]


@dataclass(frozen=True)
class ProbeFolder:
    """Where the tables of a probe lie."""

    root: Path

    def path(self, name: Table) -> Path:
        """A table.

        ``images``: statistics of every image of a suite at a step; prompt_id, image_index, those of
        ``image_statistics.STATISTICS``, and diversity (of the prompt; null where it has one image).
        ``norms``: RMS of the velocity at every evaluated step; step, row, norm.
        ``deviations``: from the training path at the last step; step, row, start (level that the
        path was left at), index, sigma, deviation.
        """
        return self.root / f"{name}.parquet"
