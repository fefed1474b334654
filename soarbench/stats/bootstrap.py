"""Intervals by resampling prompts, widened by what training seeds add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy import special

from soarbench.stats.clusters import ClusteredScores, FloatArray, IntArray, cluster

NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and how sure it is.

    Attributes:
        estimate: The statistic on the data as they are.
        low: Lower end.
        high: Upper end.
        level: Share of such intervals that hold the truth, e.g. 0.95.
        num_prompts: Prompts resampled.
        num_seeds: Training seeds; with one the interval leaves out what another seed would change.
    """

    estimate: float
    low: float
    high: float
    level: float
    num_prompts: int
    num_seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it lies on one side of zero."""
        return self.low > 0 or self.high < 0


def prompt_weights(strata: IntArray, num_resamples: int, rng: Generator) -> FloatArray:
    """Draw n - 1 of the n prompts of every stratum with replacement.

    One fewer than there are makes the variance of a resampled mean unbiased; drawing n makes it
    (n - 1) / n too small, which is 5 % of an interval's width at ten prompts a stratum.

    Args:
        strata: Stratum of each prompt, 0..G-1; (P,).
        num_resamples: R.
        rng: Source of randomness.

    Returns:
        How often each prompt was drawn; (R, P). A lone prompt of a stratum counts once.

    Source: Rao and Wu 1988, "Resampling inference with complex survey data", section 2.
    """
    weights = np.ones((num_resamples, strata.size))
    for stratum in range(int(strata.max()) + 1):
        members = np.flatnonzero(strata == stratum)
        size = members.size
        # One prompt shows no spread; drawing none of it would lose the stratum.
        if size < 2:
            continue
        drawn = rng.integers(size, size=(num_resamples, size - 1))
        drawn += size * np.arange(num_resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num_resamples * size)
        weights[:, members] = counts.reshape(num_resamples, size)
    return weights


def seed_variance(observed: FloatArray, resampled: FloatArray) -> float:
    """Variance between training seeds beyond what the choice of prompts explains.

    Seeds' means differ also because each seed made other images of these prompts; the resamples
    show how much that is.

    Args:
        observed: Mean of each seed; (S,), S > 1.
        resampled: The same in every resample of the prompts; (R, S).

    Returns:
        At least 0.
    """
    deviations = resampled - resampled.mean(axis=1, keepdims=True)
    by_prompts = deviations.var(axis=0).sum() / (observed.size - 1)
    return max(float(observed.var(ddof=1) - by_prompts), 0.0)


def mean_interval(
    scores: ClusteredScores,
    rng: Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Interval of the mean, clustered by prompt and stratified by training seed.

    Prompts are resampled, the same ones for every seed. Three seeds cannot show their spread by
    being resampled (intervals that try hold the truth in 80 % of cases when seeds matter), so
    Student's t with S - 1 degrees of freedom, scaled to the seeds' own standard error, is added to
    the resamples. The percentiles are those of a t quantile, to cover when prompts are few.

    Args:
        scores: One method's scores, or differences of two methods.
        rng: Source of randomness.
        num_resamples: Of the prompts.
        level: Share of intervals that hold the truth.

    Returns:
        The interval; of width 0 when there is only one prompt a stratum.

    Source: Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3 (expanded
    percentile interval).
    """
    observed = scores.seed_means()[0]
    weights = prompt_weights(scores.strata, num_resamples, rng)
    resampled = scores.seed_means(weights)
    # Failed measurements can leave a resample without any scored prompt of a stratum.
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    draws = resampled.mean(axis=1)
    if scores.num_seeds > 1:
        standard_error = np.sqrt(seed_variance(observed, resampled) / scores.num_seeds)
        draws = draws + standard_error * rng.standard_t(scores.num_seeds - 1, size=draws.size)
    # A stratum's mean is estimated from its own prompts and costs a degree of freedom.
    freedom = max(scores.num_prompts - scores.num_strata, 1)
    tail = special.ndtr(special.stdtrit(freedom, (1 - level) / 2))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(
        estimate=float(observed.mean()),
        low=float(low),
        high=float(high),
        level=level,
        num_prompts=scores.num_prompts,
        num_seeds=scores.num_seeds,
    )


def probability_of_improvement(
    first: ArrayLike,
    second: ArrayLike,
    prompts: ArrayLike,
    rng: Generator,
    *,
    seeds: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """How often ``first`` scores above ``second`` on the same prompt and noise; ties count half.

    Args:
        first: Scores of one method, higher is better; (N,).
        second: Scores of the other, paired; (N,).
        prompts: Prompt of each pair; (N,).
        rng: Source of randomness.
        seeds: Training seed of each pair; (N,).
        level: Of the interval.

    Raises:
        ValueError: As ``cluster``.

    Source: Agarwal et al. 2021 (rliable), arXiv:2108.13264, section 4.3, with pairs in place of all
    combinations, since our images come in pairs.
    """
    gain = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    # sign() gives 0 for a tie, which becomes a half.
    wins = np.where(np.isnan(gain), np.nan, (np.sign(gain) + 1) / 2)
    return mean_interval(cluster(wins, prompts, seeds=seeds), rng, level=level)
