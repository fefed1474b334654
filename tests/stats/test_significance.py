import numpy as np
import pytest
from scipy import stats as scipy_stats

from soarbench.stats.bootstrap import Interval
from soarbench.stats.clusters import cluster
from soarbench.stats.significance import Verdict, holm, mcnemar, paired_permutation_test, verdict


def interval(estimate, half_width):
    return Interval(
        estimate=estimate, low=estimate - half_width, high=estimate + half_width,
        level=0.95, num_prompts=10, num_seeds=1,
    )  # fmt: skip


def test_exact_permutations_equal_scipys():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.4, 1, 11), rng.normal(0, 1, 11)
    found = paired_permutation_test(cluster(first - second, np.arange(11)), rng)
    expected = scipy_stats.permutation_test(
        (first, second),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=False,
    )
    assert found == pytest.approx(expected.pvalue, abs=1e-12)


def test_random_permutations_approach_the_t_test():
    rng = np.random.default_rng(1)
    second = rng.normal(0, 1, 200)
    first = second + rng.normal(0.07, 0.5, 200)
    found = paired_permutation_test(cluster(first - second, np.arange(200)), rng)
    assert found == pytest.approx(scipy_stats.ttest_rel(first, second).pvalue, abs=0.015)


def test_images_of_a_prompt_are_swapped_together():
    """Copies of the images add nothing, so they must not make the test surer."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.5, 1, 10), rng.normal(0, 1, 10)
    alone = paired_permutation_test(cluster(first - second, np.arange(10)), rng)
    copied = cluster(np.repeat(first - second, 8), np.repeat(np.arange(10), 8))
    assert paired_permutation_test(copied, rng) == pytest.approx(alone)


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(3)
    p_values = []
    for _ in range(300):
        prompts = np.repeat(np.arange(30), 2)
        shared = rng.normal(0, 1, 30)[prompts]
        first, second = shared + rng.normal(0, 1, 60), shared + rng.normal(0, 1, 60)
        pairs = cluster(first - second, prompts)
        p_values.append(paired_permutation_test(pairs, rng, num_permutations=400))
    assert scipy_stats.kstest(p_values, "uniform").pvalue > 0.01


def test_no_difference_at_all_is_p_one():
    pairs = cluster(np.zeros(30), np.arange(30))
    assert paired_permutation_test(pairs, np.random.default_rng(0)) == 1.0


def test_a_random_p_value_is_never_zero():
    pairs = cluster(np.ones(100), np.arange(100))
    found = paired_permutation_test(pairs, np.random.default_rng(0), num_permutations=999)
    assert found == pytest.approx(1 / 1000)


@pytest.mark.parametrize(("only_first", "only_second"), [(12, 3), (3, 12), (5, 5), (1, 0)])
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(only_first, only_second):
    first = np.array([True] * only_first + [False] * only_second + [True, False, True])
    second = np.array([False] * only_first + [True] * only_second + [True, False, True])
    found = mcnemar(first, second)
    expected = scipy_stats.binomtest(only_first, only_first + only_second).pvalue
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(expected)


def test_mcnemar_without_disagreement_is_p_one():
    assert mcnemar(np.array([True, False]), np.array([True, False])).p_value == 1.0


def test_mcnemar_refuses_numbers():
    with pytest.raises(ValueError, match="must be booleans"):
        mcnemar(np.array([1.0, 0.0]), np.array([True, False]))


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04, times 4 3 2 1, never falling: .04 .06 .06 .06.
    np.testing.assert_allclose(holm([0.02, 0.01, 0.04, 0.03]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.03]), [0.03])
    assert holm([]).size == 0


def test_holm_lies_between_raw_and_bonferroni():
    raw = np.random.default_rng(4).random(20) ** 3
    adjusted = holm(raw)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(raw * 20, 1) + 1e-15).all()


@pytest.mark.parametrize("raw", [[1.5], [-0.1], [float("nan")], [[0.5]]])
def test_holm_refuses_what_is_no_p_value(raw):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        holm(raw)


def test_verdict_needs_the_interval_and_the_p_value():
    assert verdict(interval(0.3, 0.1), 0.01) is Verdict.BETTER
    assert verdict(interval(-0.3, 0.1), 0.01) is Verdict.WORSE
    assert verdict(interval(-0.3, 0.1), 0.01, higher_is_better=False) is Verdict.BETTER
    assert verdict(interval(0.3, 0.4), 0.01) is Verdict.NOT_DISTINGUISHABLE
    assert verdict(interval(0.3, 0.1), 0.2) is Verdict.NOT_DISTINGUISHABLE
    assert verdict(interval(0.3, 0.3), 0.001) is Verdict.NOT_DISTINGUISHABLE
