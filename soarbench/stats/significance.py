"""Is a difference more than chance? Paired tests, correction for many of them, and the verdict."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy import special

from soarbench.stats.bootstrap import Interval
from soarbench.stats.clusters import ClusteredScores, FloatArray

ALPHA = 0.05
NUM_PERMUTATIONS = 10_000
_CHUNK = 1000


class Verdict(enum.StrEnum):
    """What a comparison comes to."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"

    @property
    def is_decided(self) -> bool:
        """Whether one of the two is better."""
        return self is not Verdict.NOT_DISTINGUISHABLE


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's exact test: pairs in which one alone is right, and the two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def paired_permutation_test(
    differences: ClusteredScores, rng: Generator, *, num_permutations: int = NUM_PERMUTATIONS
) -> float:
    """Two-sided p-value of "the two methods are the same", by swapping them prompt by prompt.

    At least 1 / (num_permutations + 1) when swaps are random.

    Args:
        differences: Of paired scores, by prompt.
        rng: Source of randomness; unused when all swaps can be tried.
        num_permutations: Random swaps; all 2^P are tried instead when these are no more.

    Source: Phipson and Smyth 2010, "Permutation p-values should never be zero".
    """
    # All images and seeds of a prompt are swapped together, as they were drawn together. Seeds are
    # taken as given: where they dominate, this test alone rejects a true null in 42 to 53 % of
    # simulations with five seeds, so that a verdict asks the interval as well.
    shares = differences.contributions()
    total = shares.sum()
    # Sums of the same numbers in another order differ in the last bits.
    bound = abs(total) - 1e-9 * np.abs(shares).sum()
    # An int64 holds a swap of up to 62 prompts.
    if shares.size < 63 and 2**shares.size <= num_permutations:
        codes = np.arange(2**shares.size)
        swaps = (codes[:, None] >> np.arange(shares.size)) & 1
        return float(np.mean(_at_least(swaps, shares, bound)))
    # In chunks: ten thousand swaps of a thousand prompts at once would take 80 MB.
    hits = 0
    for start in range(0, num_permutations, _CHUNK):
        rows = min(_CHUNK, num_permutations - start)
        swaps = rng.integers(2, size=(rows, shares.size), dtype=np.int8)
        hits += int(_at_least(swaps, shares, bound).sum())
    # The swap that was observed is one of those that could have been drawn: never zero.
    return (hits + 1) / (num_permutations + 1)


def _at_least(swaps: np.ndarray, shares: FloatArray, bound: float) -> np.ndarray:
    """Which rows of swaps (R, P) make the total difference as large as ``bound``. -> (R,)."""
    return np.asarray(np.abs(shares.sum() - 2 * (swaps @ shares)) >= bound)


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact test of two binary verdicts, (N,) each, on the same images; these are independent.

    Raises:
        ValueError: Shapes differ or values are no booleans.

    Source: McNemar 1947; exact form: the discordant pairs are Binomial(n, 1/2).
    """
    ones, others = np.asarray(first), np.asarray(second)
    if ones.shape != others.shape or ones.dtype != np.bool_ or others.dtype != np.bool_:
        raise ValueError(
            f"verdicts: {ones.dtype} {ones.shape} and {others.dtype} {others.shape}; both must be "
            "booleans of one shape"
        )
    only_first, only_second = int((ones & ~others).sum()), int((others & ~ones).sum())
    discordant = only_first + only_second
    tail = special.bdtr(min(only_first, only_second), discordant, 0.5) if discordant else 1.0
    # Where both sides have as many, twice the tail counts the middle twice.
    p_value = min(2 * float(tail), 1.0)
    return McNemar(only_first=only_first, only_second=only_second, p_value=p_value)


def holm(p_values: ArrayLike) -> FloatArray:
    """Correct p-values for being many, so that one false finding among all has the stated chance.

    Args:
        p_values: Of one family of tests; (K,). Adjusted ones compare with the same threshold.

    Raises:
        ValueError: Not one-dimensional, or outside 0..1.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    raw = np.asarray(p_values, dtype=np.float64)
    if raw.ndim != 1 or not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p-values: shape {raw.shape}; must be (K,), each in 0..1")
    order = np.argsort(raw, kind="stable")
    # An adjusted p-value is never below that of a smaller raw one.
    stepped = np.maximum.accumulate(raw[order] * np.arange(raw.size, 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def verdict(difference: Interval, p_value: float, *, higher_is_better: bool = True) -> Verdict:
    """Say what a paired difference, first - second, comes to.

    Args:
        difference: Its interval.
        p_value: Of the same difference, after ``holm``.
        higher_is_better: Of the metric.
    """
    # It needs both: the interval knows prompts and seeds, and is not corrected for the number of
    # comparisons; the p-value is corrected, and knows prompts alone.
    if not difference.excludes_zero or not p_value < ALPHA:
        return Verdict.NOT_DISTINGUISHABLE
    return Verdict.BETTER if (difference.estimate > 0) == higher_is_better else Verdict.WORSE
