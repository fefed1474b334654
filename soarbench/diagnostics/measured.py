"""What a probe gives; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, object]
#: States by level, of followed images in their order; (N, C, H, W) each.
States = Mapping[float, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a model.

    Attributes:
        norms: RMS of the velocity; row, norm.
        exposure: Measures of exposure bias; row, measure, level, sigma, value. Empty where they
            were not asked for.
    """

    norms: Sequence[Row]
    exposure: Sequence[Row]
