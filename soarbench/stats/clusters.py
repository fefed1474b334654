"""Scores of images as a table by training seed and prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]


# Images of one prompt resemble each other, so prompts, not images, are what is drawn at random.
# Every training seed sees the same prompts: the two are crossed, and a table holds them.
@dataclass(frozen=True)
class ClusteredScores:
    """Scores summed by training seed and prompt; made by ``cluster``.

    The statistic is linear: within a seed the mean over images, or with strata the mean of the
    strata's means (GenEval's macro mean); then the mean over seeds.

    Attributes:
        sums: Sum of the scored images; (S, P) for S seeds and P prompts.
        counts: How many images that is; (S, P).
        strata: Stratum of each prompt, 0..G-1; (P,).
    """

    sums: FloatArray
    counts: FloatArray
    strata: IntArray

    @property
    def num_seeds(self) -> int:
        """Training seeds."""
        return len(self.sums)

    @property
    def num_prompts(self) -> int:
        """Prompts with a scored image."""
        return len(self.strata)

    @property
    def num_strata(self) -> int:
        """Strata; 1 where the statistic is a plain mean."""
        return int(self.strata.max()) + 1

    @property
    def num_values(self) -> int:
        """Scored images, over all seeds."""
        return int(self.counts.sum())

    def members(self) -> list[IntArray]:
        """Prompts of each stratum; G arrays of indices."""
        return [np.flatnonzero(self.strata == stratum) for stratum in range(self.num_strata)]

    def seed_means(self, weights: FloatArray | None = None) -> FloatArray:
        """The statistic of every seed, (R, S); nan where a stratum is left without a scored image.

        Args:
            weights: How often each prompt counts, by resample; (R, P). None is once each, R = 1.
        """
        if weights is None:
            weights = np.ones((1, self.num_prompts))
        total = np.zeros((weights.shape[0], self.num_seeds))
        for members in self.members():
            part = weights[:, members]
            # 0 / 0 is nan, as the docstring says, and no accident.
            with np.errstate(invalid="ignore"):
                total += (part @ self.sums[:, members].T) / (part @ self.counts[:, members].T)
        means: FloatArray = total / self.num_strata
        return means

    def mean(self) -> float:
        """The statistic."""
        return float(self.seed_means().mean())

    def contributions(self) -> FloatArray:
        """What each prompt adds to the statistic; (P,), they sum to ``mean()``."""
        totals = np.zeros_like(self.counts)
        for members in self.members():
            totals[:, members] = self.counts[:, members].sum(1, keepdims=True)
        shares: FloatArray = (self.sums / totals).mean(0) / self.num_strata
        return shares

    def influences(self) -> FloatArray:
        """How far each prompt moves each seed's statistic; (S, P), they sum to 0 in a stratum."""
        moved = np.zeros_like(self.sums)
        for members in self.members():
            sums, counts = self.sums[:, members], self.counts[:, members]
            totals = counts.sum(axis=1, keepdims=True)
            means = sums.sum(axis=1, keepdims=True) / totals
            moved[:, members] = (sums - counts * means) / totals / self.num_strata
        return moved


def cluster(
    values: ArrayLike,
    prompts: ArrayLike,
    *,
    seeds: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> ClusteredScores:
    """Sum scores by training seed and prompt; prompts without any scored image are left out.

    Args:
        values: One score an image; (N,), or (S, N) for the same images under S training seeds. A
            nan is a measurement that failed and is left out.
        prompts: Which prompt each image is of; (N,), any labels.
        seeds: Training seed of the model that made each image; (N,). None takes rows as seeds.
        strata: Stratum of each image's prompt, for a macro mean; (N,). None is a plain mean.

    Raises:
        ValueError: Lengths differ, a value is infinite, a prompt lies in two strata, or nothing is
            scored in some seed and stratum.
    """
    scores = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if np.isinf(scores).any():
        raise ValueError(
            f"scores: {int(np.isinf(scores).sum())} are infinite; must be finite or nan"
        )
    prompt, num_prompts = _codes(prompts, "prompts", scores.shape)
    stratum, _ = _codes(strata, "strata", scores.shape)
    if seeds is None:
        seed, num_seeds = np.indices(scores.shape)[0], len(scores)
    else:
        seed, num_seeds = _codes(seeds, "seeds", scores.shape)
    scored = ~np.isnan(scores)
    cell = (seed * num_prompts + prompt)[scored]
    shape = (num_seeds, num_prompts)
    sums = np.bincount(cell, weights=scores[scored], minlength=num_seeds * num_prompts)
    counts = np.bincount(cell, minlength=sums.size).reshape(shape).astype(np.float64)
    of_prompt = np.zeros(num_prompts, dtype=np.intp)
    of_prompt[prompt] = stratum
    if (of_prompt[prompt] != stratum).any():
        raise ValueError("strata: a prompt lies in two strata; each prompt belongs to one")
    kept = counts.any(axis=0)
    table = ClusteredScores(
        sums.astype(np.float64).reshape(shape)[:, kept], counts[:, kept], of_prompt[kept]
    )
    # A stratum without a number would otherwise drop out of the macro mean without a word.
    if not kept.any() or np.isin(np.arange(stratum.max() + 1), table.strata, invert=True).any():
        raise ValueError("scores: no image is scored in a whole stratum; nothing can be estimated")
    if np.isnan(table.seed_means()).any():
        raise ValueError("scores: no image of a seed is scored in a whole stratum; leave it out")
    return table


def image_spread(values: ArrayLike) -> float:
    """Standard deviation of images' scores, nan left out; 0 where only rounding tells them apart.

    Raises:
        ValueError: Nothing is scored.
    """
    scores = np.asarray(values, dtype=np.float64)
    scores = scores[~np.isnan(scores)]
    if not scores.size:
        raise ValueError("scores: no image is scored; they have no spread")
    # The mean of equal scores is off by a last bit, and so their standard deviation is not 0.
    return float(scores.std()) if np.ptp(scores) > 1e-12 * np.abs(scores).max() else 0.0


def _codes(labels: ArrayLike | None, name: str, shape: tuple[int, ...]) -> tuple[IntArray, int]:
    """Labels of images as 0..K-1 in every row of ``shape``, (S, N), and K."""
    if labels is None:
        return np.zeros(shape, dtype=np.intp), 1
    array = np.asarray(labels)
    if array.shape != shape[1:]:
        raise ValueError(f"{name}: shape {array.shape}, scores: {shape}; must be one an image")
    if array.dtype.kind in "US":
        # Texts are few and repeat often: looking them up is several times quicker than sorting.
        texts = array.tolist()
        rank = {text: code for code, text in enumerate(sorted(set(texts)))}
        codes, count = np.fromiter(map(rank.__getitem__, texts), np.intp, len(texts)), len(rank)
    else:
        labels_in_order, codes = np.unique(array, return_inverse=True)
        count = labels_in_order.size
    # Coded once for all rows: to sort the names again for each of hundreds of seeds is slow.
    return np.broadcast_to(codes.astype(np.intp), shape), count
