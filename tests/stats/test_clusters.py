import numpy as np
import pytest

from soarbench.stats.clusters import cluster, image_spread

NAN = float("nan")


def test_plain_mean_is_over_images_not_prompts():
    scores = cluster([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert scores.mean() == pytest.approx(0.75)
    assert (scores.num_prompts, scores.num_seeds, scores.num_values) == (2, 1, 4)


def test_macro_mean_is_the_mean_of_the_strata_means():
    values = [1, 1, 1, 0, 0, 1]
    scores = cluster(values, [0, 1, 2, 3, 4, 5], strata=["x", "x", "x", "x", "y", "y"])
    assert scores.mean() == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_seeds_count_alike_whatever_they_scored():
    scores = cluster([1, 1, 1, 0], ["a", "b", "c", "a"], seeds=[7, 7, 7, 9])
    np.testing.assert_allclose(scores.seed_means(), [[1, 0]])
    assert scores.mean() == pytest.approx(0.5)


def test_a_failed_measurement_is_left_out_and_never_zero():
    scores = cluster([0.8, NAN, 0.6, NAN], ["a", "a", "b", "c"])
    assert scores.mean() == pytest.approx(0.7)
    assert (scores.num_prompts, scores.num_values) == (2, 2)


def test_contributions_sum_to_the_mean():
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(12), 3)
    values = rng.random(36)
    values[[1, 5]] = NAN
    scores = cluster(np.tile(values, 2), np.tile(prompts, 2), seeds=[0] * 36 + [1] * 36,
                     strata=np.tile(prompts % 3, 2))  # fmt: skip
    assert scores.contributions().sum() == pytest.approx(scores.mean())


def test_order_of_rows_does_not_matter():
    rng = np.random.default_rng(1)
    values, prompts, seeds = rng.random(60), np.tile(np.arange(10), 6), np.repeat([0, 1, 2], 20)
    order = rng.permutation(60)
    first = cluster(values, prompts, seeds=seeds)
    second = cluster(values[order], prompts[order], seeds=seeds[order])
    np.testing.assert_allclose(first.sums, second.sums)


def test_pairs_drop_a_pair_with_a_failed_half():
    first, second = np.array([0.9, NAN, 0.5]), np.array([0.4, 0.1, NAN])
    scores = cluster(first - second, ["a", "b", "c"])
    assert scores.num_values == 1
    assert scores.mean() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, np.inf], ["a", "b"], {}), "1 are infinite"),
        (([1.0, 2.0], ["a"], {}), "prompts: shape"),
        (([[1.0, 2.0]] * 2, ["a"], {}), "prompts: shape"),
        (([1.0, 2.0], ["a", "b"], {"seeds": [1]}), "seeds: shape"),
        (([1.0, 2.0], ["a", "a"], {"strata": [0, 1]}), "two strata"),
        (([NAN, NAN], ["a", "b"], {}), "whole stratum"),
        (([], [], {}), "whole stratum"),
        (([1.0, NAN], ["a", "b"], {"strata": [0, 1]}), "whole stratum"),
        (([1.0, NAN], ["a", "a"], {"seeds": [0, 1]}), "leave it out"),
    ],
)
def test_what_cannot_be_estimated_is_refused(arguments, message):
    values, prompts, options = arguments
    with pytest.raises(ValueError, match=message):
        cluster(values, prompts, **options)


def test_rows_are_seeds_of_the_same_images():
    rng = np.random.default_rng(3)
    values, prompts, strata = rng.random((3, 8)), np.repeat(list("abcd"), 2), np.repeat([0, 1], 4)
    values[1, 2] = NAN
    rows = cluster(values, prompts, strata=strata)
    flat = cluster(
        values.ravel(),
        np.tile(prompts, 3),
        seeds=np.repeat([5, 6, 7], 8),
        strata=np.tile(strata, 3),
    )
    for one, other in zip(vars(rows).values(), vars(flat).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_texts_and_numbers_as_labels_give_the_same_table():
    rng = np.random.default_rng(0)
    values, prompts = rng.random(60), rng.integers(12, size=60)
    seeds, strata = rng.integers(3, size=60), prompts % 2
    numbers = cluster(values, prompts, seeds=seeds, strata=strata)
    texts = cluster(
        values,
        np.char.mod("%02d", prompts),
        seeds=np.char.mod("%d", seeds),
        strata=np.array(["even", "odd"])[strata],
    )
    np.testing.assert_array_equal(texts.sums, numbers.sums)
    np.testing.assert_array_equal(texts.counts, numbers.counts)
    np.testing.assert_array_equal(texts.strata, numbers.strata)


def test_rounding_is_no_spread_of_images():
    assert np.std(np.full(24, 0.7)) > 0
    assert image_spread(np.full(24, 0.7)) == 0.0
    assert image_spread([np.nan, 1.0, 3.0]) == 1.0
    with pytest.raises(ValueError, match="no image is scored"):
        image_spread([np.nan])
