import sys
import tracemalloc

import numpy as np
import pytest
from scipy import stats as scipy_stats

from soarbench.stats.bootstrap import (
    mean_interval,
    probability_of_improvement,
    prompt_weights,
)
from soarbench.stats.clusters import cluster


def simulated(rng, *, prompts, images=1, seeds=1, prompt_sd, seed_sd=0.0, noise_sd):
    """Scores with known mean 0 and their labels: (values, prompts, seeds), each (S * P * n,)."""
    shape = (seeds, prompts, images)
    values = (
        prompt_sd * rng.standard_normal((1, prompts, 1))
        + seed_sd * rng.standard_normal((seeds, 1, 1))
        + noise_sd * rng.standard_normal(shape)
    )
    seed, prompt, _ = np.indices(shape)
    return values.ravel(), prompt.ravel(), seed.ravel()


def coverage(num_simulations, strata_count=1, **shape):
    rng = np.random.default_rng(20260)
    hits = 0
    for _ in range(num_simulations):
        values, prompts, seeds = simulated(rng, **shape)
        scores = cluster(values, prompts, seeds=seeds, strata=prompts % strata_count)
        interval = mean_interval(scores, rng, num_resamples=500)
        hits += interval.low <= 0 <= interval.high
    return hits / num_simulations


@pytest.mark.parametrize(
    "shape",
    [
        {"prompts": 100, "images": 4, "prompt_sd": 0.3, "noise_sd": 0.4},
        {"prompts": 60, "images": 4, "prompt_sd": 0.3, "noise_sd": 0.4, "strata_count": 6},
        {"prompts": 60, "seeds": 3, "prompt_sd": 0.3, "noise_sd": 0.3, "seed_sd": 0.1},
        {"prompts": 60, "seeds": 5, "prompt_sd": 0.3, "noise_sd": 0.3, "seed_sd": 0.03},
        {"prompts": 60, "seeds": 3, "prompt_sd": 0.3, "noise_sd": 0.3},
    ],
    ids=["clusters", "macro mean", "seeds differ much", "seeds differ little", "seeds alike"],
)
def test_95_percent_intervals_hold_the_truth_in_93_to_97_percent(shape):
    assert 0.93 <= coverage(700, **shape) <= 0.97


def paired_verdicts(rng, *, prompts, images, seeds, gain):
    """Right-or-wrong verdicts of two methods on the same images: (first, second, prompts, seeds).

    Prompts differ in how hard they are; a prompt's chance under the first is ``gain`` higher.
    """
    shape = (seeds, prompts, images)
    chance = np.clip(rng.beta(2, 2, size=(1, prompts, 1)), 0, 1 - gain)
    draws = rng.random(shape), rng.random(shape)
    seed, prompt, _ = np.indices(shape)
    first, second = draws[0] < chance + gain, draws[1] < chance
    labels = prompt.ravel(), seed.ravel()
    return first.ravel().astype(float), second.ravel().astype(float), *labels


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_paired_intervals_of_verdicts_cover_in_a_macro_mean(seeds):
    """The shape of GenEval: binary scores, four images a prompt, six kinds of prompts."""
    rng, gain, hits = np.random.default_rng(11), 0.1, 0
    for _ in range(700):
        first, second, prompts, labels = paired_verdicts(
            rng, prompts=90, images=4, seeds=seeds, gain=gain
        )
        scores = cluster(first - second, prompts, seeds=labels, strata=prompts % 6)
        interval = mean_interval(scores, rng, num_resamples=500)
        # Clipping at 1 - gain leaves every prompt's true difference at exactly the gain.
        hits += interval.low <= gain <= interval.high
    assert 0.93 <= hits / 700 <= 0.97


@pytest.mark.slow
def test_intervals_of_the_probability_of_improvement_cover():
    """Paired scores whose difference is normal: the truth is the normal's distribution function."""
    rng, hits = np.random.default_rng(12), 0
    truth = scipy_stats.norm.cdf(0.3 / np.hypot(0.5, 0.5 * np.sqrt(2)))
    for _ in range(700):
        shared, prompts, _ = simulated(rng, prompts=80, images=4, prompt_sd=1.0, noise_sd=0.0)
        taste = np.repeat(0.5 * rng.standard_normal(80), 4)
        noise = 0.5 * rng.standard_normal((2, 320))
        found = probability_of_improvement(
            shared + 0.3 + taste + noise[0], shared + noise[1], prompts, rng
        )
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / 700 <= 0.97


def test_ignoring_clusters_would_cover_far_less():
    """The check that the simulation can fail: images taken as independent."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        values, prompts, _ = simulated(rng, prompts=60, images=4, prompt_sd=0.3, noise_sd=0.2)
        interval = mean_interval(cluster(values, np.arange(prompts.size)), rng, num_resamples=300)
        hits += interval.low <= 0 <= interval.high
    assert hits / 200 < 0.85


def test_agrees_with_the_t_interval_on_independent_values():
    values = np.random.default_rng(2).normal(5.4, 0.5, 40)
    found = mean_interval(
        cluster(values, np.arange(40)), np.random.default_rng(0), num_resamples=40_000
    )
    low, high = scipy_stats.t.interval(
        0.95, 39, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(40)
    )
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.02 * (high - low))
    assert found.high == pytest.approx(high, abs=0.02 * (high - low))


def test_agrees_with_scipys_bootstrap_of_prompt_means():
    rng = np.random.default_rng(3)
    values, prompts, _ = simulated(rng, prompts=300, images=4, prompt_sd=0.4, noise_sd=0.3)
    found = mean_interval(cluster(values, prompts), rng, num_resamples=20_000)
    means = values.reshape(300, 4).mean(1)
    expected = scipy_stats.bootstrap(
        (means,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)


def test_seeds_without_prompts_give_the_t_interval_of_the_seed_means():
    """Every image of a seed scores alike, so the seeds are all there is."""
    means = np.array([0.50, 0.53, 0.58])
    values, seeds = np.repeat(means, 20), np.repeat([0, 1, 2], 20)
    found = mean_interval(
        cluster(values, np.tile(np.arange(20), 3), seeds=seeds),
        np.random.default_rng(0),
        num_resamples=100_000,
    )
    low, high = scipy_stats.t.interval(
        0.95, 2, loc=means.mean(), scale=means.std(ddof=1) / np.sqrt(3)
    )
    # The percentile is that of t with 19 degrees of freedom, a little further out than 2.5 %.
    assert high <= found.high <= high + 0.15 * (high - low)
    assert low - 0.15 * (high - low) <= found.low <= low


def test_pairing_removes_what_prompts_share():
    rng = np.random.default_rng(6)
    base, prompts, _ = simulated(rng, prompts=200, prompt_sd=1.0, noise_sd=0.0)
    better = base + 0.05 + 0.02 * rng.standard_normal(200)
    difference = mean_interval(cluster(better - base, prompts), rng)
    alone = mean_interval(cluster(better, prompts), rng)
    assert difference.excludes_zero
    assert not alone.excludes_zero


def test_the_same_generator_gives_the_same_interval():
    values, prompts = np.random.default_rng(7).random(80), np.repeat(np.arange(20), 4)
    scores = cluster(values, prompts)
    first = mean_interval(scores, np.random.default_rng(1))
    assert first == mean_interval(scores, np.random.default_rng(1))
    assert first != mean_interval(scores, np.random.default_rng(2))


def test_weights_draw_one_fewer_than_there_are_in_every_stratum():
    strata = np.array([0] * 10 + [1] * 4 + [2])
    weights = prompt_weights(strata, 500, np.random.default_rng(0))
    assert (weights[:, :10].sum(1) == 9).all()
    assert (weights[:, 10:14].sum(1) == 3).all()
    assert (weights[:, 14] == 1).all()


def test_a_single_prompt_gives_no_width():
    interval = mean_interval(cluster([0.2, 0.4], ["a", "a"]), np.random.default_rng(0))
    assert interval.low == interval.high == pytest.approx(interval.estimate)


def test_probability_of_improvement_matches_the_normal_closed_form():
    rng = np.random.default_rng(8)
    first, second = rng.normal(0.5, 1, 4000), rng.normal(0.0, 1, 4000)
    found = probability_of_improvement(first, second, np.arange(4000), rng)
    expected = scipy_stats.norm.cdf(0.5 / np.sqrt(2))
    assert found.low < expected < found.high
    assert found.high - found.low < 0.04


def test_probability_of_improvement_counts_ties_half_and_drops_failures():
    nan = float("nan")
    found = probability_of_improvement(
        [1, 1, 0, nan], [0, 1, 1, 0], [0, 1, 2, 3], np.random.default_rng(0)
    )
    assert found.estimate == pytest.approx(0.5)
    assert found.num_prompts == 3


def geneval_interval(num_resamples):
    rng = np.random.default_rng(9)
    values, prompts, _ = simulated(rng, prompts=553, images=4, prompt_sd=0.3, noise_sd=0.3)
    scores = cluster(values, prompts, strata=prompts % 6)
    return lambda: mean_interval(scores, rng, num_resamples=num_resamples)


def calls_of(function):
    """How many functions, of Python or C, are called meanwhile."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_resamples_are_rows_of_arrays_not_turns_of_a_loop():
    # Counted, not timed: a thousand take 0.02 s, but a busy machine can make that anything.
    geneval_interval(10)()
    assert calls_of(geneval_interval(1000)) == calls_of(geneval_interval(10))


def test_resamples_need_arrays_of_prompts_not_of_images():
    a_number_a_prompt = 8 * 1000 * 553
    interval = geneval_interval(1000)
    tracemalloc.start()
    try:
        interval()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1 < peak / a_number_a_prompt < 3
