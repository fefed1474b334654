import numpy as np
import pytest

from soarbench.stats.clusters import cluster
from soarbench.stats.intervals import mean_interval
from soarbench.stats.power import (
    VarianceComponents,
    minimum_detectable_difference,
    required_prompts,
    required_seeds,
    variance_components,
)


def crossed(rng, prompts, seeds, prompt_sd, seed_sd, noise_sd, mean=0.0):
    values = (
        mean
        + prompt_sd * rng.standard_normal((1, prompts))
        + seed_sd * rng.standard_normal((seeds, 1))
        + noise_sd * rng.standard_normal((seeds, prompts))
    )
    seed, prompt = np.indices(values.shape)
    return cluster(values.ravel(), prompt.ravel(), seeds=seed.ravel())


def test_components_recover_the_simulated_variances():
    rng = np.random.default_rng(0)
    found = [variance_components(crossed(rng, 100, 8, 0.5, 0.2, 0.7)) for _ in range(200)]
    assert np.mean([one.prompt for one in found]) == pytest.approx(0.25, rel=0.05)
    assert np.mean([one.seed for one in found]) == pytest.approx(0.04, rel=0.1)
    assert np.mean([one.residual for one in found]) == pytest.approx(0.49, rel=0.05)


def test_one_seed_tells_nothing_about_seeds():
    rng = np.random.default_rng(1)
    found = variance_components(crossed(rng, 50, 1, 0.5, 0.2, 0.7))
    assert found.seed is None
    assert found.residual == 0
    assert required_seeds(found, 0.01, 50) is None


def test_macro_means_combine_the_strata_as_the_statistic_does():
    """Two strata of 20 and 80 prompts: Var = (v0 / 20 + v1 / 80) / 4."""
    values = np.concatenate([np.tile([0.0, 1.0], 10), np.tile([0.0, 2.0], 40)])
    scores = cluster(values, np.arange(100), strata=[0] * 20 + [1] * 80)
    expected = (values[:20].var(ddof=1) / 20 + values[20:].var(ddof=1) / 80) / 4
    assert variance_components(scores).prompt / 100 == pytest.approx(expected)


def test_standard_error_agrees_with_the_interval():
    rng = np.random.default_rng(2)
    scores = crossed(rng, 200, 1, 0.5, 0.0, 0.5)
    interval = mean_interval(scores)
    standard_error = np.sqrt(variance_components(scores).prompt / 200)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.97 * standard_error, rel=0.03)


def test_detectable_difference_is_the_textbook_formula():
    components = VarianceComponents(prompt=1.0, seed=None, residual=0.0)
    # Normal quantiles 1.959964 and 0.841621, times a standard error of 0.1.
    assert minimum_detectable_difference(components, 100, 1) == pytest.approx(0.2801585, abs=1e-6)


def test_prompts_and_what_a_seed_does_to_them_add_up():
    components = VarianceComponents(prompt=4.0, seed=None, residual=1.0)
    expected = (1.959964 + 0.841621) * np.sqrt(4 / 100 + 1 / (100 * 4))
    assert minimum_detectable_difference(components, 100, 4) == pytest.approx(expected, rel=1e-5)


def test_few_seeds_are_paid_with_students_t():
    components = VarianceComponents(prompt=0.0, seed=1.0, residual=0.0)
    # t quantiles of 2 degrees of freedom: 4.302653 and 1.060660.
    expected = (4.302653 + 1.060660) / np.sqrt(3)
    assert minimum_detectable_difference(components, 50, 3) == pytest.approx(expected, rel=1e-5)


def test_the_prompts_asked_for_give_the_power_promised():
    components = VarianceComponents(prompt=0.25, seed=None, residual=0.0)
    count = required_prompts(components, 0.1, 1)
    assert count == pytest.approx((2.8015852 / 0.1) ** 2 * 0.25, abs=1)
    rng = np.random.default_rng(3)
    called = [
        mean_interval(crossed(rng, count, 1, 0.5, 0, 0, mean=0.1)).low > 0 for _ in range(400)
    ]
    assert np.mean(called) == pytest.approx(0.8, abs=0.06)


def test_more_prompts_cannot_replace_seeds():
    components = VarianceComponents(prompt=0.1, seed=0.04, residual=0.1)
    assert required_prompts(components, 0.01, 3) is None
    seeds = required_seeds(components, 0.2, 100)
    assert minimum_detectable_difference(components, 100, seeds) <= 0.2
    assert minimum_detectable_difference(components, 100, seeds - 1) > 0.2


def test_no_number_shows_a_difference_of_zero():
    components = VarianceComponents(prompt=0.1, seed=0.1, residual=0.1)
    assert required_prompts(components, 0.0, 3) is None
    assert required_seeds(components, 0.0, 30) is None


def test_variance_needs_two_prompts():
    with pytest.raises(ValueError, match="two prompts"):
        variance_components(cluster([0.1, 0.2], ["a", "a"]))
