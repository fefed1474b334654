import numpy as np
import pytest
from scipy import stats as scipy_stats

from soarbench.stats.clusters import cluster
from soarbench.stats.intervals import Interval, seed_aware_test
from soarbench.stats.significance import (
    Verdict,
    equivalence_test,
    holm,
    mcnemar,
    paired_permutation_test,
    paired_test,
    too_few_prompts,
    verdict,
)


def interval(estimate, half_width, num_seeds=3):
    return Interval(
        estimate=estimate, low=estimate - half_width, high=estimate + half_width,
        level=0.95, num_prompts=10, num_seeds=num_seeds,
    )  # fmt: skip


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("num_prompts", [2, 7, 11])
def test_permutations_equal_scipys(num_prompts, is_binary):
    """Verdicts of two images a prompt have many ties, which all count as no less."""
    rng = np.random.default_rng(0)
    if is_binary:
        first, second = rng.integers(0, 3, (2, num_prompts)) / 2
    else:
        first, second = rng.normal(0.4, 1, num_prompts), rng.normal(0, 1, num_prompts)
    expected = scipy_stats.permutation_test(
        (first, second),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=False,
    )
    found = paired_permutation_test(cluster(first - second, np.arange(num_prompts)))
    assert found == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("num_prompts", [50, 553])
def test_many_prompts_agree_with_random_swaps(num_prompts):
    rng = np.random.default_rng(1)
    differences = rng.normal(2.4 / np.sqrt(num_prompts), 1, num_prompts)
    found = paired_permutation_test(cluster(differences, np.arange(num_prompts)))
    swaps = rng.choice([-1.0, 1.0], size=(100_000, num_prompts))
    expected = (np.abs(swaps @ differences) >= abs(differences.sum())).mean()
    assert 0.005 < found < 0.1
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / 100_000) + 0.02 * expected)


@pytest.mark.parametrize("z", [0.0, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("num_prompts", [1_001, 30_000])
def test_thousands_of_prompts_have_the_p_value_of_the_sign_test(num_prompts, z):
    more = int(num_prompts / 2 + z * np.sqrt(num_prompts) / 2)
    # Prompts on which both are alike say nothing.
    differences = np.repeat([1.0, -1.0, 0.0], [more, num_prompts - more, 500])
    found = paired_permutation_test(cluster(differences, np.arange(differences.size)))
    expected = scipy_stats.binomtest(more, num_prompts).pvalue
    assert found == pytest.approx(expected, rel=0.02)
    assert found > 0.999 * expected


def test_thousands_of_prompts_are_not_rounded_away():
    rng = np.random.default_rng(4)
    differences = rng.normal(size=10_000)
    differences += 2.5 / 100 - differences.mean()
    found = paired_permutation_test(cluster(differences, np.arange(10_000)))
    z = differences.sum() / np.sqrt(np.square(differences).sum())
    assert found == pytest.approx(2 * scipy_stats.norm.sf(z), rel=0.01)


def test_images_of_a_prompt_are_swapped_together():
    """Copies of the images add nothing, so they must not make the test surer."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.5, 1, 10), rng.normal(0, 1, 10)
    alone = paired_permutation_test(cluster(first - second, np.arange(10)))
    copied = cluster(np.repeat(first - second, 8), np.repeat(np.arange(10), 8))
    assert paired_permutation_test(copied) == pytest.approx(alone)


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(3)
    p_values = []
    for _ in range(300):
        prompts = np.repeat(np.arange(30), 2)
        shared = rng.normal(0, 1, 30)[prompts]
        first, second = shared + rng.normal(0, 1, 60), shared + rng.normal(0, 1, 60)
        p_values.append(paired_permutation_test(cluster(first - second, prompts)))
    assert scipy_stats.kstest(p_values, "uniform").pvalue > 0.01


def test_no_difference_at_all_is_p_one():
    assert paired_permutation_test(cluster(np.zeros(30), np.arange(30))) == 1.0


def test_the_smallest_p_value_is_that_of_one_swap_in_all():
    found = paired_permutation_test(cluster(np.ones(100), np.arange(100)))
    assert found == pytest.approx(2 / 2**100)


def test_the_larger_of_both_tests_counts():
    """Where seeds differ prompts alone are too sure; where one prompt stands out the t test is."""
    rng = np.random.default_rng(5)
    seeds = cluster(np.array([[0.1], [0.5], [0.3]]) + 0.01 * rng.random((3, 20)), np.arange(20))
    assert paired_permutation_test(seeds) < 0.001 < seed_aware_test(seeds) == paired_test(seeds)
    few = cluster([0.9, 1.0, 1.1, 1.0], np.arange(4))
    assert seed_aware_test(few) < 0.001 < paired_permutation_test(few) == paired_test(few)


def test_too_few_prompts_for_so_many_comparisons():
    rng = np.random.default_rng(6)

    def pairs(count, strata=None):
        return cluster(rng.random(count), np.arange(count), strata=strata)

    assert too_few_prompts(pairs(7), 1) == ""
    assert "7 give p = 0.016 at best" in too_few_prompts(pairs(7), 4)
    assert too_few_prompts(pairs(9), 10) == ""
    assert too_few_prompts(pairs(9), 13) != ""
    assert "2 of a task" in too_few_prompts(pairs(12, np.repeat(np.arange(6), 2)), 1)
    assert too_few_prompts(pairs(18, np.repeat(np.arange(6), 3)), 1) == ""


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


def test_a_verdict_follows_the_p_value():
    assert verdict(interval(0.3, 0.1), 0.01) is Verdict.BETTER
    assert verdict(interval(-0.3, 0.1), 0.01) is Verdict.WORSE
    assert verdict(interval(-0.3, 0.1), 0.01, higher_is_better=False) is Verdict.BETTER
    assert verdict(interval(0.3, 0.1), 0.05) is Verdict.NOT_DISTINGUISHABLE


def test_one_seed_speaks_of_its_checkpoint_alone():
    assert str(verdict(interval(0.3, 0.1, 1), 0.01)) == "this checkpoint is better"
    assert str(verdict(interval(-0.3, 0.1, 1), 0.01)) == "this checkpoint is worse"
    assert verdict(interval(0.3, 0.1, 1), 0.5) is Verdict.NOT_DISTINGUISHABLE


def test_directions_of_all_verdicts():
    directions = {str(one): one.direction for one in Verdict if one.is_decided}
    assert directions == {
        "better": 1, "worse": -1, "this checkpoint is better": 1, "this checkpoint is worse": -1,
    }  # fmt: skip


def test_equivalence_is_two_one_sided_tests():
    values = np.random.default_rng(7).normal(0.05, 1, 60)
    for margin in (0.2, 0.4, 1.0):
        tests = [
            scipy_stats.ttest_1samp(values, -margin, alternative="greater").pvalue,
            scipy_stats.ttest_1samp(values, margin, alternative="less").pvalue,
        ]
        found = equivalence_test(cluster(values, np.arange(60)), margin)
        assert found == pytest.approx(max(tests))
    assert equivalence_test(cluster(values + 1, np.arange(60)), 0.5) == 1.0


@pytest.mark.parametrize(
    ("num_prompts", "num_images"), [(48, 2), (96, 1), (34, 4), (200, 2)]
)  # fmt: skip
def test_verdicts_that_hardly_differ_are_not_called_equal(num_prompts, num_images):
    """One method alone is right on 2 % of images, the margin itself; a test of 5 %."""
    rng, margin = np.random.default_rng(11), 0.02
    prompts = np.repeat(np.arange(num_prompts), num_images)
    drawn = (rng.random((400, prompts.size)) < margin).astype(float)
    found = [equivalence_test(cluster(values, prompts), margin) for values in drawn]
    assert np.mean(np.array(found) < 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


def test_what_never_differs_shows_nothing_to_be_sure_by():
    assert equivalence_test(cluster(np.zeros((3, 12)), np.arange(12)), 0.01) == 1.0


def test_a_tie_within_the_margin_is_equivalent():
    for num_seeds, word in ((3, "equivalent"), (1, "this checkpoint is equivalent")):
        one = interval(0.01, 0.05, num_seeds)
        assert verdict(one, 0.6, equivalence_p_value=0.04) == word
        assert verdict(one, 0.6, equivalence_p_value=0.05) is Verdict.NOT_DISTINGUISHABLE
    # A difference that is seen is one, however small.
    assert verdict(interval(0.02, 0.01), 0.01, equivalence_p_value=0.01) is Verdict.BETTER
