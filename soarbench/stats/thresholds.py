"""How far along a curve is a threshold first reached?"""

from __future__ import annotations

import numpy as np

from soarbench.stats.clusters import FloatArray


def first_crossing(
    values: FloatArray, threshold: FloatArray, *, higher_is_better: bool = True
) -> FloatArray:
    """Where curves first reach a threshold, linear between their points.

    Args:
        values: Curves; (R, K).
        threshold: Of each curve; (R,).
        higher_is_better: Which way a curve must go to reach it.

    Returns:
        Fractional index of the point, 0..K-1; (R,), inf where the curve never reaches it.
    """
    sign = 1.0 if higher_is_better else -1.0
    gap = sign * (values - threshold[:, None])
    reached = gap >= 0
    index = reached.argmax(axis=1)
    rows = np.arange(len(values))
    before, after = gap[rows, np.maximum(index - 1, 0)], gap[rows, index]
    # A curve that begins beyond the threshold has no rise to divide by.
    rise = np.where(after > before, after - before, 1.0)
    position = np.where(index > 0, index - after / rise, 0.0)
    return np.where(reached.any(axis=1), position, np.inf)
