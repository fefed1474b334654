"""Is a difference more than chance? Paired tests, correction for many of them, and the verdict."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from soarbench.stats.clusters import ClusteredScores, FloatArray
from soarbench.stats.intervals import ALPHA, Interval, seed_aware_test, spread

#: Prompts that a stratum needs: intervals over two of each covered 73 to 93 % in simulations.
LEAST_PROMPTS = 3
#: Prompts at which two methods must differ to be called equivalent, and to say what a design sees:
#: of right-or-wrong verdicts that hardly differ, a few images show no spread to test with (error up
#: to 22 % where 5 is stated; a power of 21 % where 80 is).
LEAST_DIFFERING = 5
#: Whole steps that the differences of all prompts together are rounded to.
_UNITS = 2**17
#: Prompts, counted by their weights, of which more are swapped by the normal limit: each is of few
#: of those steps, and 10,000 prompts had a p of .021 where .012 is right.
_MANY = 1000


class Verdict(enum.StrEnum):
    """What a comparison comes to."""

    BETTER = "better"
    WORSE = "worse"
    # Of one training seed: what another seed would have given is not known.
    CHECKPOINT_BETTER = "this checkpoint is better"
    CHECKPOINT_WORSE = "this checkpoint is worse"
    NOT_DISTINGUISHABLE = "not distinguishable"
    EQUIVALENT = "equivalent"
    CHECKPOINT_EQUIVALENT = "this checkpoint is equivalent"
    #: No number of prompts as small as this can decide.
    TOO_FEW_PROMPTS = "too few prompts"
    #: Not among the comparisons that the table was made to decide.
    EXPLORATORY = "exploratory"

    @property
    def direction(self) -> int:
        """1 where the first is called better, -1 where it is called worse, else 0."""
        return int(self.endswith("better")) - int(self.endswith("worse"))

    @property
    def is_decided(self) -> bool:
        """Whether one of the two is called better."""
        return self.direction != 0


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's exact test: pairs in which one alone is right, and the two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def paired_test(differences: ClusteredScores) -> float:
    """Two-sided p-value of "the two methods are the same", over prompts and training seeds.

    The larger one of the permutation test, which needs no shape of the differences and takes seeds
    as given, and of ``seed_aware_test``. Neither draws a random number.
    """
    return max(paired_permutation_test(differences), seed_aware_test(differences))


def paired_permutation_test(differences: ClusteredScores) -> float:
    """Two-sided p-value by swapping the two methods prompt by prompt, in all 2^P ways.

    Differences are rounded to 1 / 131,072 of their sum, and what rounding may have turned into less
    counts as no less: with 553 prompts p is up to 2 % of its value too large, with 50 up to 0.5 %.
    Of thousands of prompts the sum of all swaps is normal, of which p is no smaller.

    Args:
        differences: Of paired scores, by prompt.

    Source: Pagano and Tritchler 1983, "On obtaining permutation distributions in polynomial time",
    JASA 78, section 2.
    """
    # All images and seeds of a prompt are swapped together, as they were drawn together.
    shares = differences.contributions()
    if not shares.any():
        return 1.0
    squares = np.square(shares / np.abs(shares).max())
    if squares.sum() ** 2 > _MANY * np.square(squares).sum():
        return _normal_permutation_test(shares)
    steps = np.rint(np.abs(shares) / np.abs(shares).sum() * _UNITS).astype(np.intp)
    total = int(steps.sum())
    observed = abs(int(np.sign(shares).astype(np.intp) @ steps))
    # Six standard deviations of the sum of all roundings.
    slack = int(3 * np.sqrt(steps.size))
    # Prompts swapped to one side add up to (total - sum) / 2, which is what is counted here.
    last = (total - observed + slack) // 2
    if 2 * last >= total:
        return 1.0
    chances = np.zeros(last + 1)
    chances[0] = 1.0
    # The small ones first, while few sums are reached.
    for step in np.sort(steps[steps > 0]):
        chances /= 2
        if step <= last:
            chances[step:] += chances[:-step].copy()
    return min(2 * float(chances.sum()), 1.0)


def _normal_permutation_test(shares: FloatArray) -> float:
    """The limit for many prompts, whose sum under swaps has lighter tails than the normal one."""
    sizes = np.abs(shares[shares != 0])
    # Where all differ alike, sums are two of these apart: half of that is what continuity takes.
    beyond = max(abs(float(shares.sum())) - float(sizes.min()), 0.0)
    return 2 * float(special.ndtr(-beyond / float(np.sqrt(np.square(sizes).sum()))))


def equivalence_test(differences: ClusteredScores, margin: float) -> float:
    """P-value of "the mean is ``margin`` or more away from 0", of the test behind the interval.

    Below 0.05 where the 90 % interval lies within the margin on both sides. 1 where fewer than
    ``LEAST_DIFFERING`` prompts differ at all.

    Source: Schuirmann 1987, "A comparison of the two one-sided tests procedure".
    """
    if hardly_differ(differences):
        return 1.0
    room = margin - abs(differences.mean())
    return float(spread(differences).tail(room)) if room > 0 else 1.0


def hardly_differ(differences: ClusteredScores) -> bool:
    """Whether fewer than ``LEAST_DIFFERING`` prompts differ, whose spread says nothing."""
    return bool(np.count_nonzero(differences.contributions()) < LEAST_DIFFERING)


def too_few_prompts(differences: ClusteredScores, num_comparisons: int) -> str:
    """Why so few prompts cannot decide any of so many comparisons, in words; empty if they can."""
    fewest = min(members.size for members in differences.members())
    if fewest < LEAST_PROMPTS:
        return f"{fewest} of a task, too few for an interval: {LEAST_PROMPTS} are the least"
    smallest = 0.5 ** (differences.num_prompts - 1)
    if smallest >= ALPHA / num_comparisons:
        return (
            f"{differences.num_prompts} give p = {smallest:.2g} at best, and one of "
            f"{num_comparisons} comparisons needs {ALPHA / num_comparisons:.2g}"
        )
    return ""


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


def verdict(
    difference: Interval,
    p_value: float,
    *,
    equivalence_p_value: float = 1.0,
    higher_is_better: bool = True,
) -> Verdict:
    """Say what a paired difference, first - second, comes to.

    Args:
        difference: Its interval.
        p_value: ``paired_test`` of the same differences, after ``holm``.
        equivalence_p_value: ``equivalence_test``, after ``holm`` over the same family.
        higher_is_better: Of the metric.
    """
    if not p_value < ALPHA:
        if not equivalence_p_value < ALPHA:
            return Verdict.NOT_DISTINGUISHABLE
        one_seed = difference.num_seeds == 1
        return Verdict.CHECKPOINT_EQUIVALENT if one_seed else Verdict.EQUIVALENT
    is_better = (difference.estimate > 0) == higher_is_better
    if difference.num_seeds == 1:
        return Verdict.CHECKPOINT_BETTER if is_better else Verdict.CHECKPOINT_WORSE
    return Verdict.BETTER if is_better else Verdict.WORSE
