"""Intervals of means over prompts and training seeds, and the p-values that go with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

# Not scipy.stats, whose import would add a quarter of a second to every command.
from scipy import special

from soarbench.stats.clusters import ClusteredScores, FloatArray, IntArray, cluster

#: Chance of a false verdict, and of an interval without the truth. One for all: reports say "95 %"
#: in words.
ALPHA = 0.05
LEVEL = 1 - ALPHA
#: Normal scores over which one of two t distributions is averaged, with their weights: a
#: tail of 1 in 60 is right to 0.1 % of itself with six prompts or more, to 4 % with three.
_SCORES = np.linspace(-8.0, 8.0, 193)
_WEIGHTS = np.exp(-np.square(_SCORES) / 2) / np.exp(-np.square(_SCORES) / 2).sum()
_MUCH_NARROWER = 8.0


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and how sure it is.

    Attributes:
        estimate: The statistic on the data as they are.
        low: Lower end.
        high: Upper end.
        level: Share of such intervals that hold the truth.
        num_prompts: Prompts, a sample of all that could be asked for.
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

    def within(self, value_range: tuple[float, float]) -> Interval:
        """The interval as far as it holds values that there can be."""
        least, largest = value_range
        return replace(self, low=max(self.low, least), high=min(self.high, largest))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What an estimate may be off by: ``seeds`` T(seed_freedom) + ``prompts`` T(prompt_freedom).

    T are independent variables of Student's distribution. Fields are numbers, or arrays of one
    shape for many estimates at once.

    Attributes:
        seeds: Standard error of the mean over training seeds, with the noise of the images that
            each seed made; 0 with one seed, which tells nothing of others.
        seed_freedom: Seeds less one, at least 1.
        prompts: Standard error of what all seeds share: these prompts, and not others.
        prompt_freedom: Its degrees of freedom.

    Source: Behrens 1929 and Fisher 1935, for the sum of two scaled t variables.
    """

    seeds: ArrayLike
    seed_freedom: ArrayLike
    prompts: ArrayLike
    prompt_freedom: ArrayLike

    @cached_property
    def _parts(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Scale and freedom of one part, (..., 1), and points of the other, (..., N)."""
        prompts, seeds = np.asarray(self.prompts, float), np.asarray(self.seeds, float)
        freedoms = np.asarray(self.prompt_freedom, float), np.asarray(self.seed_freedom, float)
        # The average is over the prompts' part, which has light tails, but where the seeds' part
        # is so narrow that its tail, a step, would fall between two points.
        is_step = _MUCH_NARROWER * seeds < prompts
        freedom = np.where(is_step, freedoms[1], freedoms[0])[..., None]
        steps = -np.sign(_SCORES) * special.stdtrit(freedom, special.ndtr(-np.abs(_SCORES)))
        return (
            np.where(is_step, prompts, seeds)[..., None],
            np.where(is_step, freedoms[0], freedoms[1])[..., None],
            np.where(is_step, seeds, prompts)[..., None] * steps,
        )

    def tail(self, error: ArrayLike) -> FloatArray:
        """Chance of an error beyond a positive one, on one side."""
        return _tail(np.asarray(error, float), *self._parts)

    def half_width(self, alpha: float) -> FloatArray:
        """The error that is exceeded, on either side, with chance ``alpha``."""
        # Not with the module: it takes longer to load than most commands that show no interval.
        from scipy.optimize import brentq, elementwise

        ends = [
            np.asarray(scale) * -special.stdtrit(np.asarray(freedom, float), alpha / 2)
            for scale, freedom in (
                (self.prompts, self.prompt_freedom),
                (self.seeds, self.seed_freedom),
            )
        ]
        # A sum is wider than its wider part, and no wider than both in one direction.
        low, high = np.broadcast_arrays(np.maximum(*ends), ends[0] + ends[1])
        parts = [part.reshape(low.size, -1) for part in self._parts]

        def excess(error: FloatArray, place: IntArray) -> FloatArray:
            return 2 * _tail(error, *(part[place] for part in parts)) - alpha

        places = np.arange(low.size).reshape(low.shape)
        if not low.shape:
            # The search for many at once takes three times as long for one.
            first, last = float(excess(low, places)), float(excess(high, places))
            if not first > 0 > last:
                return np.asarray(low if first <= 0 else high)
            xtol, rtol = float(np.finfo(float).tiny), 4 * float(np.finfo(float).eps)

            def of_one(error: float) -> float:
                return float(excess(np.asarray(error), places))

            return np.asarray(brentq(of_one, float(low), float(high), xtol=xtol, rtol=rtol))
        root = elementwise.find_root(excess, (low, high), args=(places,))
        # Without a root between them one of the ends is as near as the average can tell.
        nearer = np.where(root.f_bracket[0] <= 0, low, high)
        return np.asarray(np.where(root.success, root.x, nearer))


def _tail(
    error: FloatArray, wide: FloatArray, freedom: FloatArray, points: FloatArray
) -> FloatArray:
    beyond = points - error[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # Without any spread 0 / 0 is the one error that there is.
        places = np.where(beyond == 0, 0.0, beyond / wide)
    tails: FloatArray = special.stdtr(freedom, places) @ _WEIGHTS
    return tails


def spread(scores: ClusteredScores) -> Spread:
    """How far the mean of scores may be off, for other prompts and other training seeds.

    Of size 0 when there is only one prompt.
    """
    variances, noises, freedoms = _prompt_variances(scores)
    total, noise, num_seeds = variances.sum(), noises.sum(), scores.num_seeds
    # Satterthwaite: strata that do not vary lend the others no degrees of freedom.
    weight = np.square(variances).dot(1 / freedoms)
    freedom = total**2 / weight if weight else max(scores.num_prompts - scores.num_strata, 1)
    seeds = 0.0
    if num_seeds > 1:
        # Whole, and not less what images' noise explains of it: that difference is 0 by chance in
        # up to half of all cases, and taken at its word made a family's error 8 % with three seeds
        # and 20 % with two. The noise is taken from the prompts' part instead, which is known well.
        seeds = float(scores.seed_means()[0].var(ddof=1)) / num_seeds
        total = max(total - noise, 0.0)
    return Spread(
        seeds=np.sqrt(seeds),
        seed_freedom=max(num_seeds - 1, 1),
        prompts=np.sqrt(total),
        prompt_freedom=freedom,
    )


def _prompt_variances(scores: ClusteredScores) -> tuple[FloatArray, FloatArray, FloatArray]:
    """By stratum: the mean's variance over prompts, what of it seeds do not share, and freedoms.

    One each a stratum of several prompts. Those of one, which shows no spread, are taken to spread
    as one of the others' prompts do, in which their share is; where all are such, they are one.
    """
    groups = scores.members()
    many = [members for members in groups if members.size > 1]
    if many:
        influences = scores.influences()
        parts = [_moments(influences[:, members]) for members in many]
    elif len(groups) > 1:
        # Their means may differ, so that this is no less than it should be.
        moved = scores.sums / scores.counts / scores.num_strata
        parts = [_moments(moved - moved.mean(axis=1, keepdims=True))]
    else:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    variances, noises, freedoms = (np.array(part) for part in zip(*parts, strict=True))
    if many and len(many) < len(groups):
        sizes = np.array([members.size for members in many])
        # Their variance is that of the others over again, and no more is known of it for that: as
        # one of its own it lent degrees of freedom that no prompt has, up to twice as many.
        shares = 1 + (len(groups) - len(many)) * sizes / sizes.size
        variances, noises = variances * shares, noises * shares
    return variances, noises, freedoms


def _moments(influences: FloatArray) -> tuple[float, float, float]:
    """Of prompts, (S, n): their variance, what of it the seeds do not share, and its freedom."""
    num_seeds, size = influences.shape
    freedom, shared = float(size - 1), influences.mean(axis=0)
    unbias = size / freedom
    # Zero with one seed, of which nothing can be told apart.
    rest = np.square(influences - shared).sum() / max(num_seeds - 1, 1)
    return unbias * float(np.square(shared).sum()), unbias * float(rest) / num_seeds, freedom


def mean_interval(scores: ClusteredScores) -> Interval:
    """Interval of the mean: prompts and training seeds are samples, crossed with each other.

    Args:
        scores: One method's scores, or differences of two methods.
    """
    estimate = scores.mean()
    half_width = float(spread(scores).half_width(ALPHA))
    return Interval(
        estimate=estimate,
        low=estimate - half_width,
        high=estimate + half_width,
        level=LEVEL,
        num_prompts=scores.num_prompts,
        num_seeds=scores.num_seeds,
    )


def seed_aware_test(differences: ClusteredScores) -> float:
    """Two-sided p-value of "the mean is 0": below 0.05 where ``mean_interval`` leaves 0 out."""
    return min(2 * float(spread(differences).tail(abs(differences.mean()))), 1.0)


def probability_of_improvement(first: ArrayLike, second: ArrayLike, prompts: ArrayLike) -> Interval:
    """How often ``first`` scores above ``second`` on the same prompt and noise; ties count half.

    Args:
        first: Scores of one method, higher is better; (N,), or (S, N) as for ``cluster``.
        second: Scores of the other, paired; as ``first``.
        prompts: Prompt of each pair; (N,).

    Raises:
        ValueError: As ``cluster``.

    Source: Agarwal et al. 2021 (rliable), arXiv:2108.13264, section 4.3, with pairs in place of all
    combinations, since our images come in pairs.
    """
    gain = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    # sign() gives 0 for a tie, which becomes a half, and nan for a pair that is left out.
    return mean_interval(cluster((np.sign(gain) + 1) / 2, prompts)).within((0.0, 1.0))
