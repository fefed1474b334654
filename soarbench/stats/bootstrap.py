"""Intervals by resampling prompts, widened by what training seeds add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

# Not scipy.stats, whose import would add a quarter of a second to every command.
from scipy import special

from soarbench.stats.clusters import ClusteredScores, FloatArray, IntArray, cluster

#: Share of intervals that hold the truth. One for all: reports say "95 %" in words.
LEVEL = 0.95
#: Leaves 3 to 4 % of an interval's half-width to chance, measured on our own reports.
NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and how sure it is.

    Attributes:
        estimate: The statistic on the data as they are.
        low: Lower end.
        high: Upper end.
        level: Share of such intervals that hold the truth.
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


def _seed_variance(observed: FloatArray, resampled: FloatArray) -> float:
    """Variance between seeds (S,) beyond what resamples of the prompts (R, S) explain."""
    # Seeds' means differ also because each seed made other images of these prompts; the resamples
    # show how much that is.
    deviations = resampled - resampled.mean(axis=1, keepdims=True)
    by_prompts = deviations.var(axis=0).sum() / (observed.size - 1)
    return max(float(observed.var(ddof=1) - by_prompts), 0.0)


def mean_interval(
    scores: ClusteredScores, rng: Generator, *, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Interval of the mean, clustered by prompt and stratified by training seed.

    Of width 0 when there is only one prompt a stratum.

    Args:
        scores: One method's scores, or differences of two methods.
        rng: Source of randomness.
        num_resamples: Of the prompts.

    Source: Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3 (expanded
    percentile interval).
    """
    observed = scores.seed_means()[0]
    # The same prompts for every seed, since all seeds were judged on the same ones.
    weights = prompt_weights(scores.strata, num_resamples, rng)
    resampled = scores.seed_means(weights)
    # Failed measurements can leave a resample without any scored prompt of a stratum.
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    draws = resampled.mean(axis=1)
    # Three seeds cannot show their spread by being resampled: intervals that try hold the truth in
    # 80 % of cases when seeds matter. Student's t of the seeds' own standard error covers 94 to 97.
    if scores.num_seeds > 1:
        standard_error = np.sqrt(_seed_variance(observed, resampled) / scores.num_seeds)
        draws = draws + standard_error * rng.standard_t(scores.num_seeds - 1, size=draws.size)
    # A stratum's mean is estimated from its own prompts and costs a degree of freedom.
    freedom = max(scores.num_prompts - scores.num_strata, 1)
    # Percentiles of a t quantile, further out than 2.5 %, to cover when prompts are few.
    tail = special.ndtr(special.stdtrit(freedom, (1 - LEVEL) / 2))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(
        estimate=float(observed.mean()),
        low=float(low),
        high=float(high),
        level=LEVEL,
        num_prompts=scores.num_prompts,
        num_seeds=scores.num_seeds,
    )


def probability_of_improvement(
    first: ArrayLike, second: ArrayLike, prompts: ArrayLike, rng: Generator
) -> Interval:
    """How often ``first`` scores above ``second`` on the same prompt and noise; ties count half.

    Args:
        first: Scores of one method, higher is better; (N,), or (S, N) as for ``cluster``.
        second: Scores of the other, paired; as ``first``.
        prompts: Prompt of each pair; (N,).
        rng: Source of randomness.

    Raises:
        ValueError: As ``cluster``.

    Source: Agarwal et al. 2021 (rliable), arXiv:2108.13264, section 4.3, with pairs in place of all
    combinations, since our images come in pairs.
    """
    gain = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    # sign() gives 0 for a tie, which becomes a half, and nan for a pair that is left out.
    return mean_interval(cluster((np.sign(gain) + 1) / 2, prompts), rng)
