"""Resamples of the prompts, for statistics that are no means."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from soarbench.stats.clusters import FloatArray, IntArray


def prompt_weights(strata: IntArray, num_resamples: int, rng: Generator) -> FloatArray:
    """How often each prompt is drawn: n - 1 of the n of every stratum, with replacement; (R, P).

    Args:
        strata: Stratum of each prompt, 0..G-1; (P,). A lone prompt of a stratum counts once.
        num_resamples: R.
        rng: Source of randomness.

    Source: Rao and Wu 1988, "Resampling inference with complex survey data", section 2.
    """
    weights = np.ones((num_resamples, strata.size))
    for stratum in range(int(strata.max()) + 1):
        members = np.flatnonzero(strata == stratum)
        size = members.size
        # One prompt shows no spread; drawing none of it would lose the stratum.
        if size < 2:
            continue
        # One fewer than there are makes the variance of a resampled mean unbiased; drawing n makes
        # it (n - 1) / n too small, which is 5 % of an interval's width at ten prompts a stratum.
        drawn = rng.integers(size, size=(num_resamples, size - 1))
        drawn += size * np.arange(num_resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num_resamples * size)
        weights[:, members] = counts.reshape(num_resamples, size)
    return weights
