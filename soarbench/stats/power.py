"""What could this design have seen, and how many images, prompts or seeds would decide?"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from soarbench.stats.clusters import FloatArray
from soarbench.stats.intervals import ALPHA, Spread

#: Chance to call a difference that is there.
POWER = 0.8
#: Beyond this many images, prompts or seeds "more of them" is no advice.
MOST = 10_000
#: Normal scores at which the variance between seeds that a sample will show is looked at.
_SCORES = np.linspace(-4.0, 4.0, 33)
_NUM_HALVINGS = 40
_WEIGHTS = np.exp(-np.square(_SCORES) / 2) / np.exp(-np.square(_SCORES) / 2).sum()


@dataclass(frozen=True, kw_only=True)
class Design:
    """How much is measured, and at once.

    Attributes:
        num_prompts: P.
        num_images: A prompt's, under every seed: I.
        num_seeds: S.
        num_comparisons: Of the family that the verdict is corrected for.
    """

    num_prompts: int
    num_images: int
    num_seeds: int
    num_comparisons: int = 1


@dataclass(frozen=True, kw_only=True)
class VarianceComponents:
    """Where the variance of a mean over P prompts, I images of each and S seeds comes from.

    Var(mean) = seed / S + prompt / P + prompt_seed / (P S) + image / (P I) + image_seed / (P I S),
    with the strata's shares of the P prompts as they are.

    Attributes:
        seed: Between training seeds; None when there is only one, and nothing is known about it.
        prompt: Between prompts.
        prompt_seed: What a seed does to a prompt. Part of ``prompt`` when there is only one seed.
        image: Between images of a prompt, shared by seeds, which start from the same noise; None
            when there is one image a prompt, whose part is in those of the prompts.
        image_seed: The rest. Part of ``image`` when there is only one seed.
        num_strata: Of the prompts.
    """

    seed: float | None
    prompt: float
    prompt_seed: float
    image: float | None
    image_seed: float
    num_strata: int = 1


def variance_components(
    values: ArrayLike, prompts: ArrayLike, strata: ArrayLike | None = None
) -> VarianceComponents:
    """Estimate the components by the method of moments of a crossed analysis of variance.

    Args:
        values: One method's scores, or differences of two methods; (S, N). Prompts that lack a
            score are left out.
        prompts: Prompt of each image; (N,).
        strata: Stratum of each image's prompt, for a macro mean; (N,).

    Raises:
        ValueError: A stratum has not two prompts that are scored in every seed.
    """
    table, stratum = _table(np.atleast_2d(np.asarray(values, dtype=np.float64)), prompts, strata)
    num_seeds, num_prompts, num_images = table.shape
    # Also those that have lost all their prompts: without them a design would see more for it.
    names = np.unique(np.zeros(1) if strata is None else np.asarray(strata))
    groups = [table[:, stratum == name] for name in names]
    num_strata = len(groups)
    if min(group.shape[1] for group in groups) < 2:
        raise ValueError("scores: variance needs two prompts a stratum that every seed scored")
    parts = [_crossed(group) / group.shape[1] for group in groups]
    # A stratum's mean counts 1 / G, and its share of the prompts is what it is.
    parts = np.sum(parts, axis=0) * num_prompts / num_strata**2
    prompt, prompt_seed, image, image_seed = parts.tolist()
    seed = None
    if num_seeds > 1:
        means = np.mean([group.mean(axis=(1, 2)) for group in groups], axis=0)
        # Seeds' means differ by images' noise too; what is more than that is the seeds' own.
        noise = (prompt_seed + image_seed / num_images) / num_prompts
        seed = max(float(means.var(ddof=1)) - noise, 0.0)
    return VarianceComponents(
        seed=seed,
        prompt=prompt,
        prompt_seed=prompt_seed,
        image=image if num_images > 1 else None,
        image_seed=image_seed,
        num_strata=num_strata,
    )


def _table(
    values: FloatArray, prompts: ArrayLike, strata: ArrayLike | None
) -> tuple[FloatArray, np.ndarray]:
    """Scores (S, P, I) of the prompts that have them all, and the stratum of each; (P,)."""
    labels = np.asarray(prompts)
    groups = np.zeros(labels.size) if strata is None else np.asarray(strata)
    _, first, codes, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    lost = np.isin(np.arange(counts.size), codes[np.isnan(values).any(axis=0)])
    kept = ~lost & (counts == counts.max())
    order = np.argsort(codes, kind="stable")
    order = order[kept[codes[order]]]
    table = values[:, order].reshape(len(values), int(kept.sum()), int(counts.max()))
    return table, groups[first[kept]]


def _crossed(table: FloatArray) -> FloatArray:
    """Components of prompts, prompts by seeds, images, and images by seeds; none below 0. -> (4,).

    The table is (S, n, I).
    """
    num_seeds, num_prompts, num_images = table.shape
    cells, shared = table.mean(axis=2), table.mean(axis=0)
    by_prompt = cells.mean(axis=0)
    between = float(by_prompt.var(ddof=1))
    interaction = cells - by_prompt - cells.mean(axis=1, keepdims=True) + cells.mean()
    prompt_seed = _mean_square(interaction, (num_seeds - 1) * (num_prompts - 1))
    images = shared - by_prompt[:, None]
    image = _mean_square(images, num_prompts * (num_images - 1))
    rest = table - cells[:, :, None] - images
    image_seed = _mean_square(rest, (num_seeds - 1) * num_prompts * (num_images - 1))
    # A mean over few seeds or images still holds the noise below it.
    own_image = image - image_seed / num_seeds
    own_seed = prompt_seed - image_seed / num_images
    own = between - own_image / num_images - own_seed / num_seeds
    own -= image_seed / (num_images * num_seeds)
    return np.maximum([own, own_seed, own_image, image_seed], 0.0)


def _mean_square(deviations: FloatArray, freedom: int) -> float:
    """0 where nothing is free to vary."""
    return float(np.square(deviations).sum()) / freedom if freedom else 0.0


def detectable_difference(components: VarianceComponents, design: Design) -> float:
    """Smallest true difference that a design would call with chance ``POWER``.

    By the verdict's own rule at ``ALPHA`` over the number of comparisons, where the seeds' own
    variance is what a sample happens to show.
    """
    prompts, images, seeds = design.num_prompts, design.num_images, design.num_seeds
    shared = (components.prompt + (components.image or 0.0) / images) / prompts
    noise = (components.prompt_seed + components.image_seed / images) / prompts
    alpha = ALPHA / design.num_comparisons
    freedom = max(prompts - components.num_strata, 1)
    # The permutation test takes seeds as they are.
    least = -special.stdtrit(freedom, alpha / 2) * np.sqrt(shared + noise / seeds)
    if seeds == 1:
        # Of one seed the test is about the checkpoint, and so is its power.
        return float(least + special.ndtri(POWER) * np.sqrt(shared + noise))
    variance = ((components.seed or 0.0) + noise) / seeds
    shown = special.chdtri(seeds - 1, special.ndtr(-_SCORES)) / (seeds - 1)
    limits = Spread(
        seeds=np.sqrt(variance * shown), seed_freedom=np.full(shown.size, seeds - 1.0),
        prompts=np.full(shown.size, np.sqrt(shared)), prompt_freedom=np.full(shown.size, freedom),
    ).half_width(alpha)  # fmt: skip
    return _difference_of(np.maximum(limits, least), np.sqrt(shared + variance))


def _difference_of(limits: FloatArray, standard_error: float) -> float:
    """The true difference that exceeds limits, as likely as ``_WEIGHTS``, with ``POWER``."""
    low, high = 0.0, float(limits.max() + 5 * standard_error)
    # Without any variance there is nothing to see through.
    for _ in range(_NUM_HALVINGS if standard_error else 0):
        middle = (low + high) / 2
        chance = special.ndtr((middle - limits) / standard_error) @ _WEIGHTS
        low, high = (low, middle) if chance >= POWER else (middle, high)
    return high


@dataclass(frozen=True, kw_only=True)
class Required:
    """How many of each alone, with all else as it is, would decide; None: no number would."""

    images: int | None
    prompts: int | None
    seeds: int | None


def required(components: VarianceComponents, design: Design, difference: float) -> Required:
    """How many images a prompt, prompts, or seeds would decide a true difference.

    Args:
        components: Of the paired differences.
        design: What there is.
        difference: One that matters, fixed beforehand; not the measured one, of which such numbers
            are anything: for a true .0094 CLIPScore they had a 90 % range of 29 to none.
    """

    def smallest(least: int, name: str) -> int | None:
        def detectable(count: int) -> float:
            return detectable_difference(components, replace(design, **{name: count}))

        return _smallest(detectable, least, abs(difference))

    return Required(
        images=None if components.image is None else smallest(1, "num_images"),
        prompts=smallest(components.num_strata + 1, "num_prompts"),
        # What one seed is about no number of others would tell.
        seeds=None if components.seed is None else smallest(2, "num_seeds"),
    )


def _smallest(detectable: Callable[[int], float], least: int, difference: float) -> int | None:
    """Smallest count from ``least`` on that sees ``difference``; None up to ``MOST``."""
    counts = range(least, MOST + 1)
    # More of anything never sees less, so that halving finds the smallest number.
    place = bisect_left(counts, True, key=lambda count: detectable(count) <= difference)
    return counts[place] if place < len(counts) and difference > 0 else None
