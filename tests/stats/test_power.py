from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from soarbench.stats.clusters import cluster
from soarbench.stats.intervals import spread
from soarbench.stats.power import (
    Design,
    VarianceComponents,
    detectable_difference,
    required,
    variance_components,
)

NOTHING = VarianceComponents(seed=0.0, prompt=0.0, prompt_seed=0.0, image=0.0, image_seed=0.0)
#: An aesthetic score of the laboratory, Flow-GRPO - SFT.
AESTHETIC = VarianceComponents(
    seed=0.0008, prompt=0.0073, prompt_seed=0.0057, image=0.026, image_seed=0.055
)


def crossed(rng, components, prompts, images, seeds):
    """Differences (S, P * I) with components' variances, and the prompt of each image."""
    scales = {name: np.sqrt(value) for name, value in vars(components).items()}
    shapes = {
        "seed": (seeds, 1, 1), "prompt": (1, prompts, 1), "prompt_seed": (seeds, prompts, 1),
        "image": (1, prompts, images), "image_seed": (seeds, prompts, images),
    }  # fmt: skip
    values = sum(scales[name] * rng.standard_normal(shape) for name, shape in shapes.items())
    return values.reshape(seeds, -1), np.repeat(np.arange(prompts), images)


def test_components_recover_the_simulated_variances():
    truth = VarianceComponents(
        seed=0.04, prompt=0.25, prompt_seed=0.1, image=0.3, image_seed=0.49
    )  # fmt: skip
    rng = np.random.default_rng(0)
    found = [variance_components(*crossed(rng, truth, 60, 4, 6)) for _ in range(200)]
    for name in ("seed", "prompt", "prompt_seed", "image", "image_seed"):
        mean = np.mean([getattr(one, name) for one in found])
        assert mean == pytest.approx(getattr(truth, name), rel=0.1), name


def test_components_add_up_to_the_variance_of_the_mean():
    """By another way: that of the seeds' means and of the prompts' means, of one table."""
    rng = np.random.default_rng(1)
    values, prompts = crossed(rng, replace(AESTHETIC, seed=0.2, prompt=0.5), 40, 4, 5)
    one = variance_components(values, prompts)
    own = spread(cluster(values, prompts))
    shared = (one.prompt + one.image / 4) / 40
    noise = (one.prompt_seed + one.image_seed / 4) / 40
    assert own.prompts == pytest.approx(np.sqrt(shared))
    assert own.seeds == pytest.approx(np.sqrt((one.seed + noise) / 5))


def test_one_seed_tells_nothing_about_seeds_and_one_image_nothing_about_images():
    rng = np.random.default_rng(1)
    one_seed = variance_components(*crossed(rng, AESTHETIC, 50, 4, 1))
    assert one_seed.seed is None
    assert (one_seed.prompt_seed, one_seed.image_seed) == (0, 0)
    design = Design(num_prompts=50, num_images=4, num_seeds=1)
    assert required(one_seed, design, 0.01).seeds is None
    assert required(one_seed, design, 0.01).prompts > 50
    one_image = variance_components(*crossed(rng, AESTHETIC, 50, 1, 3))
    assert one_image.image is None
    design = Design(num_prompts=50, num_images=1, num_seeds=3)
    assert required(one_image, design, 0.2).images is None


def test_macro_means_combine_the_strata_as_the_statistic_does():
    """Two strata of 20 and 80 prompts: Var = (v0 / 20 + v1 / 80) / 4."""
    values = np.concatenate([np.tile([0.0, 1.0], 10), np.tile([0.0, 2.0], 40)])
    found = variance_components(values, np.arange(100), [0] * 20 + [1] * 80)
    expected = (values[:20].var(ddof=1) / 20 + values[20:].var(ddof=1) / 80) / 4
    assert found.prompt / 100 == pytest.approx(expected)
    assert found.num_strata == 2


def test_prompts_that_lost_an_image_are_left_out():
    rng = np.random.default_rng(2)
    values, prompts = crossed(rng, AESTHETIC, 30, 2, 3)
    whole = variance_components(values[:, 4:], prompts[4:])
    values[1, 2] = np.nan
    assert variance_components(values[:, 2:], prompts[2:]) == whole


def test_a_stratum_that_lost_all_its_whole_prompts_is_no_better_design():
    rng = np.random.default_rng(3)
    values, strata = rng.normal(size=(3, 120)), np.repeat(np.arange(6), 20)
    prompts = np.repeat(np.arange(60), 2)
    assert variance_components(values, prompts, strata).num_strata == 6
    values[1, :20:2] = np.nan
    with pytest.raises(ValueError, match="two prompts a stratum"):
        variance_components(values, prompts, strata)


def test_detectable_difference_is_the_textbook_formula_of_a_t_test():
    design = Design(num_prompts=100, num_images=1, num_seeds=1)
    found = detectable_difference(replace(NOTHING, seed=None, prompt=1.0), design)
    # t quantile of 99 degrees of freedom, and the normal one of 80 %, times 0.1.
    assert found == pytest.approx((1.9842169 + 0.8416212) / 10)


def test_few_seeds_are_paid_with_students_t():
    """Where seeds are all there is: scipy's noncentral t has 80 % at this difference."""
    design = Design(num_prompts=50, num_images=4, num_seeds=3, num_comparisons=2)
    found = detectable_difference(replace(NOTHING, seed=1.0), design)
    limit = scipy_stats.t.ppf(1 - 0.05 / 2 / 2, 2)
    power = scipy_stats.nct.sf(limit, 2, found * np.sqrt(3))
    assert power == pytest.approx(0.8, abs=0.005)


def test_more_comparisons_see_less():
    design = Design(num_prompts=50, num_images=4, num_seeds=5)
    alone = detectable_difference(AESTHETIC, design)
    assert detectable_difference(AESTHETIC, replace(design, num_comparisons=6)) > 1.2 * alone


def test_images_help_where_images_are_the_noise_and_not_where_seeds_are():
    design = Design(num_prompts=50, num_images=4, num_seeds=5, num_comparisons=3)
    noisy = replace(NOTHING, image_seed=1.0)
    many = replace(design, num_images=16)
    halved = detectable_difference(noisy, design) / 2
    assert detectable_difference(noisy, many) == pytest.approx(halved)
    seeds = replace(NOTHING, seed=1.0)
    assert detectable_difference(seeds, many) == detectable_difference(seeds, design)


def test_what_is_required_is_just_enough():
    design = Design(num_prompts=40, num_images=4, num_seeds=5, num_comparisons=3)
    goal = 0.8 * detectable_difference(AESTHETIC, design)
    found = required(AESTHETIC, design, goal)
    for name, count in (("num_prompts", found.prompts), ("num_seeds", found.seeds)):
        assert detectable_difference(AESTHETIC, replace(design, **{name: count})) <= goal
        assert detectable_difference(AESTHETIC, replace(design, **{name: count - 1})) > goal


def test_more_prompts_and_images_cannot_replace_seeds():
    design = Design(num_prompts=50, num_images=4, num_seeds=3)
    found = required(replace(AESTHETIC, seed=0.04), design, 0.1)
    assert (found.images, found.prompts) == (None, None)
    assert found.seeds > 10


def test_no_number_shows_a_difference_of_zero():
    design = Design(num_prompts=50, num_images=4, num_seeds=3)
    assert set(vars(required(AESTHETIC, design, 0.0)).values()) == {None}


def test_variance_needs_two_prompts():
    with pytest.raises(ValueError, match="two prompts"):
        variance_components([0.1, 0.2], ["a", "a"])
