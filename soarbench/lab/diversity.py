"""The laboratory's measure of diversity: on its own CLIP, which knows the drawn world."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.diversity.config import Measure, VendiConfig
from soarbench.lab.assets import ASSETS, asset_dir


@dataclass(frozen=True, kw_only=True)
class LabVendiConfig(VendiConfig):
    """The Vendi score on the laboratory's own CLIP."""

    weights: str | None = str(ASSETS / "clip")

    def build(self) -> Measure:
        """Verifies the assets first."""
        # A user's own CLIP in its place is no asset.
        if self.weights == str(ASSETS / "clip"):
            asset_dir("clip")
        return super().build()
