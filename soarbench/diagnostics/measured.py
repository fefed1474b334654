"""What a probe gives; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a model.

    Attributes:
        norms: RMS of the velocity; row, norm.
        paths: Deviation from the training path; row, start, index, sigma, deviation. Empty where it
            was not asked for.
    """

    norms: Sequence[Mapping[str, float]]
    paths: Sequence[Mapping[str, float]]
