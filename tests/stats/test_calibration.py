"""The verdict keeps its word: error of a family, coverage and power on data of the real shape."""

import numpy as np
import pytest

from tests.stats.simulated import (
    GRIDS,
    SHAPES,
    Simulation,
    binary_differences,
    components,
    detectable,
    differences,
    outcome,
    panels,
    same_against_same,
)

NUM_FAMILIES = 1000
#: Two standard errors of a share of 5 or 6 % among so many families.
SLACK = 2 * np.sqrt(0.06 * 0.94 / NUM_FAMILIES)
#: The same of intervals, three a family, which share their baseline.
COVER_SLACK = 2 * np.sqrt(0.05 * 0.95 / (1.5 * NUM_FAMILIES))


@pytest.fixture(scope="module")
def shapes():
    """Variance components of the committed scores."""
    return {name: components(shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def rates():
    """How often each GenEval prompt is right in the committed results, and its task; (P,)."""
    panel = panels("main_table")["general", "geneval"]
    trained = [values for run, values in panel.values.items() if run.method != "base"]
    names, codes = np.unique(panel.prompts, return_inverse=True)
    right = [np.mean([values[codes == i].mean() for values in trained]) for i in range(names.size)]
    strata = [panel.strata[codes == i][0] for i in range(names.size)]
    return np.array(right), np.unique(strata, return_inverse=True)[1]


@pytest.mark.parametrize("num_prompts", [10, 50, 200])
@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_families_err_in_6_percent_at_most_and_intervals_cover(
    shapes, shape, num_seeds, num_prompts
):
    size = Simulation(num_families=NUM_FAMILIES, num_prompts=num_prompts, num_seeds=num_seeds)
    rng = np.random.default_rng([num_prompts, num_seeds, list(SHAPES).index(shape)])
    found = outcome(differences(shapes[shape], size, rng))
    assert found.family_error <= 0.06 + SLACK
    assert 0.93 - COVER_SLACK <= found.covered <= 0.97 + COVER_SLACK


@pytest.mark.parametrize("shape", list(SHAPES))
def test_heavy_tails_change_nothing(shapes, shape):
    size = Simulation(num_families=NUM_FAMILIES, num_prompts=50, num_seeds=3, is_heavy=True)
    found = outcome(differences(shapes[shape], size, np.random.default_rng(8)))
    assert found.family_error <= 0.06 + SLACK
    assert 0.93 - COVER_SLACK <= found.covered <= 0.97 + COVER_SLACK


@pytest.mark.parametrize("seed_sd", [0.0, 0.25])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_right_or_wrong_verdicts_in_six_strata(rates, num_seeds, seed_sd):
    size = Simulation(num_families=NUM_FAMILIES, num_prompts=rates[0].size, num_seeds=num_seeds)
    table = binary_differences(rates[0], seed_sd, size, np.random.default_rng(num_seeds))
    found = outcome(table, rates[1])
    assert found.family_error <= 0.06 + SLACK
    assert 0.93 - COVER_SLACK <= found.covered <= 0.98 + COVER_SLACK


def test_two_seeds_keep_the_error_too(shapes):
    size = Simulation(num_families=NUM_FAMILIES, num_prompts=50, num_seeds=2)
    found = outcome(differences(shapes["oracle"], size, np.random.default_rng(9)))
    assert found.family_error <= 0.06 + SLACK


def test_one_seed_speaks_of_checkpoints_and_not_of_methods(shapes):
    """Among checkpoints nothing is claimed falsely; of methods nearly everything would be."""
    size = Simulation(num_families=NUM_FAMILIES, num_prompts=50, num_seeds=1)
    rng, truth = np.random.default_rng(10), vars(shapes["oracle"])
    # Without seeds of their own, two methods' checkpoints are alike.
    alike = outcome(differences(type(shapes["oracle"])(**{**truth, "seed": 0.0}), size, rng))
    assert alike.family_error <= 0.06 + SLACK
    assert 0.93 - COVER_SLACK <= alike.covered <= 0.97 + COVER_SLACK
    assert outcome(differences(shapes["oracle"], size, rng)).family_error > 0.5


@pytest.mark.parametrize(
    ("shape", "num_prompts", "num_seeds"),
    [
        ("CLIPScore", 50, 3), ("CLIPScore", 50, 5), ("CLIPScore", 200, 5),
        ("aesthetic", 50, 3), ("aesthetic", 50, 5), ("aesthetic", 10, 5),
        ("oracle", 50, 3), ("oracle", 50, 5), ("CLIPScore", 50, 1),
    ],
)  # fmt: skip
def test_a_design_sees_what_it_says_in_80_percent(shapes, shape, num_prompts, num_seeds):
    size = Simulation(num_families=NUM_FAMILIES, num_prompts=num_prompts, num_seeds=num_seeds)
    rng = np.random.default_rng([num_prompts, num_seeds, list(SHAPES).index(shape)])
    table = differences(shapes[shape], size, rng)
    found = outcome(table, shift=detectable(shapes[shape], size))
    assert found.first == pytest.approx(0.8, abs=0.05 + 2 * np.sqrt(0.16 / NUM_FAMILIES))


def test_seeds_of_one_method_are_not_better_than_others_of_it():
    """Real scores without a model: two seeds of a method as if they were another method's."""
    families = list(same_against_same(2))
    assert len(families) == 15 * (2 + 1)
    assert len(GRIDS) == 2
    assert np.mean(families) <= 0.06
