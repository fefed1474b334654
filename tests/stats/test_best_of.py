"""The gain of choosing by a score: exact, and what it says of methods that exploit it or do not."""

import itertools

import numpy as np
import pytest

from soarbench.stats.best_of import (
    correlation_terms,
    pick_shares,
    picking_gains,
    picking_rate,
)
from soarbench.stats.bootstrap import prompt_weights
from soarbench.stats.clusters import cluster
from soarbench.stats.intervals import mean_interval
from soarbench.stats.significance import paired_test

NUM_PROMPTS, NUM_IMAGES = 40, 4
PROMPTS = np.repeat(np.arange(NUM_PROMPTS), NUM_IMAGES)
#: Of the laboratory's aesthetic score and its oracle, between base images.
CORRELATION = 0.67


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("scores", [[0.3, 2.0, -1.0, 0.5, 7.0], [1.0, 3.0, 3.0, 1.0, 3.0]])
def test_shares_are_those_of_all_subsets(scores, count):
    expected = np.zeros(5)
    for subset in itertools.combinations(range(5), count):
        best = max(scores[i] for i in subset)
        tied = [i for i in subset if scores[i] == best]
        expected[tied] += 1 / len(tied)
    shares = pick_shares(np.array(scores), count)
    assert shares.sum() == pytest.approx(1)
    # Which of two tied images is in a subset with the other depends on the subset, not on them.
    np.testing.assert_allclose(shares, expected / expected.sum())


def test_more_images_than_there_are_cannot_be_chosen_from():
    with pytest.raises(ValueError, match=r"best of 3: must be in 1\.\.2"):
        pick_shares(np.array([1.0, 2.0]), 3)


def test_gains_by_hand():
    scores = np.array([0.0, 2.0, 5.0, 1.0, np.nan, 9.0])
    values = np.array([3.0, 1.0, 0.0, 4.0, 1.0, 2.0])
    prompts = np.array([0, 0, 1, 1, 2, 2])
    first, second = picking_gains(scores, values, prompts, 2)
    # Of prompt 0 the second image is chosen, of prompt 1 the first; prompt 2 has only one.
    np.testing.assert_allclose(first[:4].reshape(2, 2).mean(1), [1.0, 2.0])
    np.testing.assert_allclose(second[:4].reshape(2, 2).mean(1), [-1.0, -2.0])
    assert np.isnan(first[4:]).all()
    rate = picking_rate(first, second, prompts, 3)
    assert rate.rate == pytest.approx(-1.0)
    np.testing.assert_allclose(rate.influence, [0.0, 0.0, 0.0], atol=1e-12)


def test_a_score_that_never_varies_has_no_rate():
    terms = picking_gains(np.ones(4), np.arange(4.0), np.array([0, 0, 1, 1]), 2)
    assert picking_rate(*terms, np.array([0, 0, 1, 1]), 2) is None


def base_images(rng, shape=(NUM_PROMPTS, NUM_IMAGES)):
    """Scores and truths of the base's images: prompts differ, images within a prompt correlate."""
    common = rng.normal(size=(*shape[:1], *[1] * (len(shape) - 1)))
    score = rng.normal(size=shape)
    truth = CORRELATION * score + np.sqrt(1 - CORRELATION**2) * rng.normal(size=shape)
    return common + score, common + truth


def trained(rng, base, seeds, pull, cheat=0.0, seed_spread=0.1):
    """Gains of a method that chooses the best of ``pull`` images, and shifts the score alone."""
    gains = []
    for _ in range(seeds):
        score, truth = base_images(rng, (NUM_PROMPTS, NUM_IMAGES, pull))
        # The prompt's own level is the base's.
        score, truth = (
            own - own.mean(axis=(1, 2), keepdims=True) + old.mean(1)[:, None, None]
            for own, old in ((score, base[0]), (truth, base[1]))
        )
        best = score.argmax(-1)[..., None]
        # A seed moves what a score sees and what is true alike; the rest is another look.
        shift = rng.normal() * seed_spread
        gains.append(
            (
                np.take_along_axis(score, best, -1)[..., 0] - base[0] + shift + cheat,
                np.take_along_axis(truth, best, -1)[..., 0] - base[1] + CORRELATION * shift,
            )
        )
    return tuple(np.stack(rows).reshape(seeds, -1) for rows in zip(*gains, strict=True))


def rate_of(base):
    flat = [values.ravel() for values in base]
    return picking_rate(*picking_gains(*flat, PROMPTS, NUM_IMAGES), PROMPTS, NUM_PROMPTS)


def test_the_rate_is_the_slope_within_prompts():
    rates = [rate_of(base_images(np.random.default_rng(seed))).rate for seed in range(200)]
    assert np.mean(rates) == pytest.approx(CORRELATION, abs=0.02)


def test_the_interval_is_that_of_resampling_rate_and_gains_together():
    rng = np.random.default_rng(3)
    base = base_images(rng)
    gains, true = trained(rng, base, 1, pull=3, cheat=0.5)
    rate = rate_of(base)
    terms = rate.shortfall(gains, true, PROMPTS)
    assert np.mean(terms) == pytest.approx(rate.rate * gains.mean() - true.mean())
    interval = mean_interval(cluster(terms, PROMPTS))
    # Directly: the ratio of every resample, by the same prompts for base and method.
    picked = picking_gains(*[v.ravel() for v in base], PROMPTS, NUM_IMAGES)
    weights = prompt_weights(np.zeros(NUM_PROMPTS, int), 20_000, rng)
    means = [
        weights @ values.reshape(NUM_PROMPTS, NUM_IMAGES).mean(1) / weights.sum(1)
        for values in (*picked, gains[0], true[0])
    ]
    draws = means[1] / means[0] * means[2] - means[3]
    width = np.subtract(*np.quantile(draws, [0.975, 0.025]))
    assert interval.high - interval.low == pytest.approx(width, rel=0.08)
    # Without the rate's own error it would be another, and here a narrower one.
    fixed = mean_interval(cluster(rate.rate * gains - true, PROMPTS))
    assert interval.high - interval.low > 1.1 * (fixed.high - fixed.low)


def test_planted_exploitation_shows_and_an_honest_imperfect_choice_does_not():
    honest, planted = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        base = base_images(rng)
        rate = rate_of(base)
        for cheat, results in ((0.0, honest), (1.0, planted)):
            terms = rate.shortfall(*trained(rng, base, 5, pull=4, cheat=cheat), PROMPTS)
            results.append(mean_interval(cluster(terms, PROMPTS)))
    # Both sides of 95 %: an interval that is too wide would show nothing either.
    assert 0.91 <= np.mean([i.low <= 0 <= i.high for i in honest]) <= 0.99
    assert np.mean([i.low > 0 for i in planted]) > 0.8


@pytest.mark.parametrize("seeds", [3, 5])
def test_methods_that_exploit_alike_are_told_apart_as_rarely_as_stated(seeds):
    errors = []
    for number in range(400):
        rng = np.random.default_rng((seeds, number))
        base = base_images(rng)
        rate = rate_of(base)
        # Unlike gains, both honest.
        one, other = (
            rate.shortfall(*trained(rng, base, seeds, pull=pull), PROMPTS) for pull in (2, 4)
        )
        contrast = cluster(one - other, PROMPTS)
        errors.append(paired_test(contrast) < 0.05)
    # Three standard errors of 400 simulations above 5 %.
    assert np.mean(errors) <= 0.083


def test_a_correlation_is_that_of_what_differs_within_prompts():
    rng = np.random.default_rng(5)
    first, second = (values.ravel() for values in base_images(rng))
    first[3] = np.nan
    terms = correlation_terms(first, second, PROMPTS)
    kept = ~np.isnan(first)
    groups = [np.flatnonzero(kept & (label == PROMPTS)) for label in range(NUM_PROMPTS)]
    centred = [
        np.concatenate([values[own] - values[own].mean() for own in groups])
        for values in (first, second)
    ]
    assert np.isnan(terms[3])
    assert np.nanmean(terms) == pytest.approx(np.corrcoef(*centred)[0, 1])


def test_intervals_of_a_correlation_hold_it():
    hits = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        first, second = (values.ravel() for values in base_images(rng))
        terms = correlation_terms(first, second, PROMPTS)
        interval = mean_interval(cluster(terms, PROMPTS))
        hits.append(interval.low <= CORRELATION <= interval.high)
    assert 0.915 <= np.mean(hits) <= 0.98


def test_scores_that_never_vary_within_a_prompt_do_not_correlate():
    levels = PROMPTS.astype(float)
    noise = np.random.default_rng(0).normal(size=PROMPTS.size)
    assert correlation_terms(levels, noise, PROMPTS) is None
    assert correlation_terms(noise, noise, np.arange(PROMPTS.size)) is None
    assert np.nanmean(correlation_terms(noise, -2 * noise, PROMPTS)) == pytest.approx(-1)
