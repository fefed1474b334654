import numpy as np
import pytest
from scipy import stats as scipy_stats

from soarbench.stats.clusters import cluster
from soarbench.stats.intervals import (
    Interval,
    Spread,
    mean_interval,
    probability_of_improvement,
    seed_aware_test,
    spread,
)


def simulated(rng, *, prompts, images=1, seeds=1, prompt_sd, seed_sd=0.0, noise_sd):
    """Scores of a true mean of 0, (S, P * n), and the prompt of each image."""
    values = (
        prompt_sd * rng.standard_normal((1, prompts, 1))
        + seed_sd * rng.standard_normal((seeds, 1, 1))
        + noise_sd * rng.standard_normal((seeds, prompts, images))
    )
    return values.reshape(seeds, -1), np.repeat(np.arange(prompts), images)


@pytest.mark.parametrize(
    ("prompts", "seeds"),
    [((1.0, 50), (0.3, 2)), ((1.0, 50), (3.0, 2)), ((1.0, 9), (1.0, 1)), ((0.2, 30), (1.0, 4))],
)
def test_the_sum_of_two_scaled_t_variables_is_that_of_draws(prompts, seeds):
    rng = np.random.default_rng(0)
    draws = sum(
        scale * scipy_stats.t.rvs(freedom, size=1_000_000, random_state=rng)
        for scale, freedom in (prompts, seeds)
    )
    one = Spread(
        prompts=prompts[0], prompt_freedom=prompts[1], seeds=seeds[0], seed_freedom=seeds[1]
    )
    for alpha in (0.05, 0.05 / 3):
        beyond = np.abs(draws) > one.half_width(alpha)
        assert beyond.mean() == pytest.approx(alpha, abs=4 * np.sqrt(alpha / 1e6))


@pytest.mark.parametrize("seeds", [0.0, 1e-9, 1e9])
def test_one_part_alone_is_its_own_t_distribution(seeds):
    one = Spread(prompts=1.0, prompt_freedom=20.0, seeds=seeds, seed_freedom=2.0)
    scale, freedom = (1.0, 20) if seeds < 1 else (seeds, 2)
    expected = scale * scipy_stats.t.ppf(0.975, freedom)
    assert one.half_width(0.05) == pytest.approx(expected, rel=1e-6)
    assert one.tail(expected) == pytest.approx(0.025, rel=1e-5)


def test_many_spreads_at_once_are_each_by_itself():
    many = Spread(
        prompts=np.array([1.0, 0.2, 1.0]), prompt_freedom=np.array([9.0, 30.0, 5.0]),
        seeds=np.array([0.0, 1.0, 1.0]), seed_freedom=np.array([1.0, 2.0, 4.0]),
    )  # fmt: skip
    fields = dict(vars(many))
    for i, (tail, half_width) in enumerate(
        zip(many.tail([2.0, 2.0, 0.0]), many.half_width(0.01), strict=True)
    ):
        one = Spread(**{name: values[i] for name, values in fields.items()})
        assert one.tail([2.0, 2.0, 0.0][i]) == pytest.approx(tail)
        assert one.half_width(0.01) == pytest.approx(half_width)


def test_agrees_with_the_t_interval_of_prompt_means():
    rng = np.random.default_rng(3)
    values, prompts = simulated(rng, prompts=40, images=4, prompt_sd=0.4, noise_sd=0.3)
    found = mean_interval(cluster(values, prompts))
    means = values.reshape(40, 4).mean(1)
    low, high = scipy_stats.t.interval(0.95, 39, means.mean(), scipy_stats.sem(means))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    expected = scipy_stats.ttest_1samp(means, 0).pvalue
    assert seed_aware_test(cluster(values, prompts)) == pytest.approx(expected)


def test_seeds_without_prompts_give_the_t_interval_of_the_seed_means():
    """Every image of a seed scores alike, so the seeds are all there is."""
    means = np.array([0.50, 0.53, 0.58])
    found = mean_interval(cluster(np.repeat(means[:, None], 20, axis=1), np.arange(20)))
    low, high = scipy_stats.t.interval(0.95, 2, means.mean(), scipy_stats.sem(means))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_what_seeds_share_of_prompts_is_theirs_and_the_rest_the_seeds():
    """Moments by hand, of two seeds and three prompts: a table of seed + prompt + rest."""
    table = np.array([[1.0, 4.0, 7.0], [2.0, 6.0, 4.0]])
    one = spread(cluster(table, np.arange(3)))
    # Seeds' means are 4 and 4, prompts' are 1.5, 5 and 5.5, of variance 4.75.
    assert float(one.seeds) == 0.0
    rest = table - table.mean(0)
    noise = (rest**2).sum() / (1 * 2) / 2
    assert float(one.prompts) == pytest.approx(np.sqrt((4.75 - noise) / 3))
    assert (one.prompt_freedom, one.seed_freedom) == (2, 1)


def test_strata_without_variance_lend_no_degrees_of_freedom():
    values = np.concatenate([np.tile([0.0, 1.0], 5), np.ones(10)])
    strata = np.repeat([0, 1], 10)
    one = spread(cluster(values, np.arange(20), strata=strata))
    assert one.prompt_freedom == pytest.approx(9)
    assert one.prompts == pytest.approx(scipy_stats.sem(values[:10]) / 2)


def test_prompts_that_lost_images_count_by_what_they_have():
    """A ratio of sums: the linearised variance of scipy's weighted mean, by hand."""
    values = np.array([1.0, 2.0, np.nan, 3.0, 5.0, 7.0])
    one = spread(cluster(values, np.repeat(np.arange(3), 2)))
    mean = 18 / 5
    moved = np.array([3 - 2 * mean, 3 - mean, 12 - 2 * mean]) / 5
    assert one.prompts == pytest.approx(np.sqrt(1.5 * (moved**2).sum()))


def test_the_interval_leaves_zero_out_where_the_test_says_so():
    rng = np.random.default_rng(4)
    answers = []
    for _ in range(200):
        values, prompts = simulated(
            rng, prompts=12, seeds=3, prompt_sd=0.3, seed_sd=0.1, noise_sd=0.3
        )
        scores = cluster(values + 0.3, prompts)
        is_below = seed_aware_test(scores) < 0.05
        assert mean_interval(scores).excludes_zero == is_below
        answers.append(is_below)
    assert 20 < sum(answers) < 180


def test_pairing_removes_what_prompts_share():
    rng = np.random.default_rng(6)
    base, prompts = simulated(rng, prompts=200, prompt_sd=1.0, noise_sd=0.0)
    better = base + 0.05 + 0.02 * rng.standard_normal(200)
    assert mean_interval(cluster(better - base, prompts)).excludes_zero
    assert not mean_interval(cluster(better, prompts)).excludes_zero


def test_a_single_prompt_gives_no_width():
    interval = mean_interval(cluster([0.2, 0.4], ["a", "a"]))
    assert interval.low == interval.high == pytest.approx(interval.estimate)


def test_a_stratum_of_one_prompt_spreads_as_prompts_of_the_others_do():
    values = np.array([0.0, 2.0, 1.0, 5.0, 7.0])
    one = spread(cluster(values, np.arange(5), strata=[0, 0, 1, 1, 2]))
    # Variances of a prompt are 2 and 8, so that the lone one's is 5; means of strata count 1 / 3.
    assert one.prompts == pytest.approx(np.sqrt(2 / 2 + 8 / 2 + 5) / 3)
    # In shares 1 + 2 / 2 of 2 / 2 and 8 / 2, of one degree of freedom each.
    assert one.prompt_freedom == pytest.approx((2 + 8) ** 2 / (2**2 + 8**2))


def test_strata_of_one_prompt_lend_no_degrees_of_freedom():
    values, strata = [0.0, 2.0, 1.0, 5.0, 7.0, 3.0], [0, 0, 1, 2, 3, 4]
    one = spread(cluster(values, np.arange(6), strata=strata))
    assert one.prompt_freedom == pytest.approx(1)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (10, 10, 10, 10, 10, 1)])
def test_intervals_of_strata_of_one_prompt_cover(sizes):
    """Such a stratum shows no spread, and without any [0.333, 0.333] covered nothing."""
    rng, strata = np.random.default_rng(3), np.repeat(np.arange(len(sizes)), sizes)
    held = []
    for _ in range(400):
        values = rng.normal(size=strata.size)
        interval = mean_interval(cluster(values, np.arange(strata.size), strata=strata))
        held.append(interval.low <= 0 <= interval.high)
    assert np.mean(held) > 0.92


def test_no_difference_at_all_is_p_one_and_a_constant_one_is_p_zero():
    assert seed_aware_test(cluster(np.zeros((2, 5)), np.arange(5))) == 1.0
    assert seed_aware_test(cluster(np.ones((2, 5)), np.arange(5))) == 0.0


def test_an_interval_keeps_to_values_that_there_can_be():
    one = Interval(estimate=0.98, low=0.94, high=1.02, level=0.95, num_prompts=9, num_seeds=1)
    assert (one.within((0.0, 1.0)).low, one.within((0.0, 1.0)).high) == (0.94, 1.0)


def test_probability_of_improvement_matches_the_normal_closed_form():
    rng = np.random.default_rng(8)
    first, second = rng.normal(0.5, 1, 4000), rng.normal(0.0, 1, 4000)
    found = probability_of_improvement(first, second, np.arange(4000))
    expected = scipy_stats.norm.cdf(0.5 / np.sqrt(2))
    assert found.low < expected < found.high
    assert found.high - found.low < 0.04


def test_probability_of_improvement_counts_ties_half_and_drops_failures():
    nan = float("nan")
    found = probability_of_improvement([1, 1, 0, nan], [0, 1, 1, 0], [0, 1, 2, 3])
    assert found.estimate == pytest.approx(0.5)
    assert found.num_prompts == 3


def test_a_probability_lies_between_0_and_1():
    rng = np.random.default_rng(5)
    gains = np.stack([rng.normal(0.2, 0.1, 20), rng.normal(0.05, 0.1, 20)])
    found = probability_of_improvement(gains, np.zeros((2, 20)), np.arange(20))
    assert (found.low, found.high) == (0.0, 1.0)
