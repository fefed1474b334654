"""What choosing by an imperfect score gains without any training, and how well it ranks images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from soarbench.stats.clusters import FloatArray, IntArray


def pick_shares(scores: FloatArray, count: int) -> FloatArray:
    """How often each image is the best by score of ``count`` drawn without replacement; (K,).

    Exact over all subsets of the K scores; images that tie share their place. ``ValueError`` where
    ``count`` is not in 1..K.
    """
    size = scores.size
    if not 1 <= count <= size:
        raise ValueError(f"best of {count}: must be in 1..{size}, the images there are")
    # The image of rank k is the best where the other count - 1 are among the k below it.
    total = math.comb(size, count)
    by_rank = np.array([math.comb(rank, count - 1) / total for rank in range(size)])
    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)
    shared = np.bincount(place, weights=by_rank[np.argsort(np.argsort(scores, kind="stable"))])
    shares: FloatArray = (shared / ties)[place]
    return shares


def picking_gains(
    scores: FloatArray, values: FloatArray, prompts: IntArray, count: int
) -> tuple[FloatArray, FloatArray]:
    """What the best of ``count`` images of a prompt by score has over their mean, as terms.

    Args:
        scores: What is chosen by; (N,), nan where there is none.
        values: What else is known of the images; (N,), nan likewise.
        prompts: Prompt of each image, 0..P-1; (N,).
        count: Images to choose from.

    Returns:
        Terms of the gain in the score and in the other; (N,) each. Their mean over the images of a
        prompt is its gain; nan for images of a prompt with fewer than ``count``.
    """
    terms = np.full((2, scores.size), np.nan)
    both = ~np.isnan(scores + values)
    for prompt in np.unique(prompts[both]):
        own = np.flatnonzero(both & (prompts == prompt))
        if own.size >= count:
            weights = own.size * pick_shares(scores[own], count) - 1
            terms[:, own] = weights * scores[own], weights * values[own]
    return terms[0], terms[1]


@dataclass(frozen=True)
class PickingRate:
    """How much of another number one gets for each unit of the score that is chosen by.

    Attributes:
        rate: Ratio of both gains.
        influence: What each prompt adds to the rate's error; (P,), 0 where it has too few images.
    """

    rate: float
    influence: FloatArray

    def shortfall(self, gains: FloatArray, true_gains: FloatArray, prompts: IntArray) -> FloatArray:
        """What true gains lack of the rate times the score's; (S, N), nan where either is.

        The mean of a row is ``rate * mean(gains) - mean(true_gains)``. How far each prompt moves it
        holds the part that the prompt has in the rate, so that resampling prompts resamples both.

        Args:
            gains: In the score; (S, N) for S seeds.
            true_gains: In the other number; (S, N).
            prompts: Prompt of each image, 0..P-1; (N,).
        """
        rest = self.rate * gains - true_gains
        scored = ~np.isnan(rest)
        shares = np.where(scored, self.influence[prompts], np.nan)
        # Images without a score change the prompts' weights, which must not move the estimate.
        shares -= np.nanmean(shares, axis=1, keepdims=True)
        reach = np.nanmean(np.where(scored, gains, np.nan), axis=1, keepdims=True)
        terms: FloatArray = rest + reach * shares
        return terms


def picking_rate(
    score_terms: FloatArray, value_terms: FloatArray, prompts: IntArray, num_prompts: int
) -> PickingRate | None:
    """The rate of ``picking_gains``; None where choosing gains nothing in the score itself.

    Source: the ratio estimator and its linearisation, Cochran 1977, "Sampling techniques", 6.3.
    """
    scored = ~np.isnan(score_terms)
    gain = float(score_terms[scored].mean()) if scored.any() else 0.0
    if gain <= 0:
        return None
    rate = float(value_terms[scored].mean()) / gain
    errors = (value_terms - rate * score_terms)[scored] / gain
    counts = np.bincount(prompts[scored], minlength=num_prompts)
    sums = np.bincount(prompts[scored], weights=errors, minlength=num_prompts)
    # Prompts that the rate was not estimated from do not move it; the others move it the more.
    present = counts > 0
    influence = np.zeros(num_prompts)
    influence[present] = sums[present] / counts[present] * (num_prompts / present.sum())
    return PickingRate(rate, influence)


def correlation_terms(
    first: FloatArray, second: FloatArray, prompts: IntArray
) -> FloatArray | None:
    """Terms whose mean is the correlation of two scores within prompts, pooled over prompts; (N,).

    Each is the correlation and what the image adds to its error, so that the interval of their mean
    is the correlation's. nan for images without both scores or alone of their prompt; None where
    either score never varies within a prompt.
    """
    both = ~np.isnan(first + second)
    counts = np.bincount(prompts[both], minlength=int(prompts.max()) + 1)
    usable = both & (counts[prompts] > 1)
    if not usable.any():
        return None
    units = []
    for values in (first, second):
        sums = np.bincount(prompts[usable], weights=values[usable], minlength=counts.size)
        centred = values[usable] - (sums / np.maximum(counts, 1))[prompts[usable]]
        spread = float(np.sqrt(np.mean(centred**2)))
        # Rounding leaves equal scores a spread of a few of the last bits.
        if spread <= 1e-12 * float(np.abs(values[usable]).max()):
            return None
        units.append(centred / spread)
    one, other = units
    correlation = float(np.mean(one * other))
    terms = np.full(first.size, np.nan)
    terms[usable] = correlation + one * other - correlation * (one**2 + other**2) / 2
    return terms
