"""What could this design have seen, and how many prompts or seeds would decide?"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from soarbench.stats.clusters import ClusteredScores, FloatArray
from soarbench.stats.intervals import LEVEL

#: Chance to call a difference that is there.
POWER = 0.8
#: Beyond this many prompts or seeds "more of them" is no advice.
MOST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class VarianceComponents:
    """Where the variance of a mean over P prompts and S seeds comes from.

    Var(mean) = prompt / P + seed / S + residual / (P S), with the strata's shares of the P prompts
    as they are.

    Attributes:
        prompt: Between prompts.
        seed: Between training seeds; None when there is only one, and nothing is known about it.
        residual: Of a prompt within a seed: images' noise and what a seed does to a prompt. Part of
            ``prompt`` when there is only one seed.
    """

    prompt: float
    seed: float | None
    residual: float


def variance_components(scores: ClusteredScores) -> VarianceComponents:
    """Estimate the components by the method of moments.

    Args:
        scores: One method's scores, or differences of two methods. Prompts that are not scored in
            every seed are left out, and strata of one prompt add nothing.

    Raises:
        ValueError: No stratum has two prompts that are scored in every seed.
    """
    complete = scores.counts.all(axis=0)
    means = scores.sums[:, complete] / scores.counts[:, complete]
    strata = scores.strata[complete]
    groups = [means[:, strata == stratum] for stratum in range(scores.num_strata)]
    groups = [group for group in groups if group.shape[1] > 1]
    if not groups:
        raise ValueError("scores: variance needs two prompts a stratum that every seed scored")
    num_prompts, prompt, residual = means.shape[1], 0.0, 0.0
    for group in groups:
        share = num_prompts / (scores.num_strata**2 * group.shape[1])
        between, within = _crossed_variances(group)
        prompt += share * between
        residual += share * within
    seed = None
    if scores.num_seeds > 1:
        spread = float(scores.seed_means()[0].var(ddof=1))
        # Seeds' means differ by images' noise too; what is more than that is the seeds' own.
        seed = max(spread - residual / num_prompts, 0.0)
    return VarianceComponents(prompt=prompt, seed=seed, residual=residual)


def _crossed_variances(means: FloatArray) -> tuple[float, float]:
    """Variances between prompts and of the rest, for prompts crossed with seeds (S, n)."""
    num_seeds, num_prompts = means.shape
    by_prompt = means.mean(axis=0)
    between = float(by_prompt.var(ddof=1))
    if num_seeds == 1:
        return between, 0.0
    rest = means - by_prompt - means.mean(axis=1, keepdims=True) + means.mean()
    within = float(np.square(rest).sum() / ((num_seeds - 1) * (num_prompts - 1)))
    # A prompt's mean over few seeds still holds the rest's noise, so its variance is too large.
    return max(between - within / num_seeds, 0.0), within


def minimum_detectable_difference(
    components: VarianceComponents, num_prompts: int, num_seeds: int
) -> float:
    """Smallest true difference that so many prompts and seeds would call with chance ``POWER``.

    Args:
        components: Of the paired differences.
        num_prompts: P.
        num_seeds: S.
    """
    # Of one comparison: the verdict's correction for many is not in it, and costs power.
    factor = float(special.ndtri((1 + LEVEL) / 2) + special.ndtri(POWER))
    variance = components.prompt / num_prompts + components.residual / (num_prompts * num_seeds)
    square = factor**2 * variance
    # Prompts are many and take normal quantiles; seeds are few and take Student's t, as in
    # mean_interval.
    if components.seed and num_seeds > 1:
        freedom = num_seeds - 1
        quantiles = special.stdtrit(freedom, (1 + LEVEL) / 2), special.stdtrit(freedom, POWER)
        square += float(sum(quantiles)) ** 2 * components.seed / num_seeds
    return math.sqrt(square)


def required_prompts(
    components: VarianceComponents, difference: float, num_seeds: int
) -> int | None:
    """How many prompts would decide a true difference with these seeds; None: no number would."""
    return _smallest(
        lambda count: minimum_detectable_difference(components, count, num_seeds), difference
    )


def required_seeds(
    components: VarianceComponents, difference: float, num_prompts: int
) -> int | None:
    """The same for training seeds, with these prompts; None also where one seed told nothing."""
    if components.seed is None:
        return None
    return _smallest(
        lambda count: minimum_detectable_difference(components, num_prompts, count), difference
    )


def _smallest(detectable: Callable[[int], float], difference: float) -> int | None:
    """Smallest count from 2 on whose detectable difference is no more than ``difference``."""
    if difference == 0:
        return None
    counts = range(2, MOST + 1)
    # More prompts or seeds never see less, so that halving finds the smallest number.
    place = bisect_left(counts, True, key=lambda count: detectable(count) <= abs(difference))
    return counts[place] if place < len(counts) else None
