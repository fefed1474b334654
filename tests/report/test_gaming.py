import dataclasses

import numpy as np
import pytest

from soarbench.report.numbers.gaming import gaming_points
from soarbench.report.numbers.panels import Panel, Run
from tests.report.folders import FACTS

PROMPTS = np.repeat([f"p{i}" for i in range(6)], 2)
IMAGES = np.tile([0, 1], 6)
BASE = np.tile([-1.0, 1.0], 6)  # mean 0, standard deviation 1


def panel(evaluator, values, **changes):
    made = Panel(
        task="aesthetic", evaluator=evaluator, facts=FACTS[evaluator], suite="drawbench",
        fingerprint="f", prompts=PROMPTS, images=IMAGES, strata=None,
        values=values, reasons={run: {} for run in values},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def panels(proxy_gain, oracle_gain, scale=1.0, **changes):
    """Both gains are the same for every image, in standard deviations of the base."""
    base = Run("base", 0, 0)
    runs = [Run("sft", seed, step) for seed in (0, 1) for step in (10, 20)]
    proxy = {base: BASE} | {run: BASE + proxy_gain * run.step / 20 for run in runs}
    oracle = {base: scale * BASE} | {
        run: scale * (BASE + oracle_gain * run.step / 20) for run in runs
    }
    return {
        ("aesthetic", "aesthetic"): panel("aesthetic", proxy),
        ("aesthetic", "oracle_aesthetic"): panel("oracle_aesthetic", oracle, **changes),
    }


def test_gains_are_in_the_bases_spread_whatever_the_scale():
    for scale in (1.0, 100.0):
        half, whole = gaming_points(panels(0.8, 0.2, scale))
        assert (half.step, whole.step) == (10, 20)
        assert whole.proxy_gain == pytest.approx(0.8)
        assert whole.oracle_gain == pytest.approx(0.2)
        assert whole.gap == pytest.approx(0.6)
        assert half.gap == pytest.approx(0.3)
        assert (whole.num_prompts, whole.num_seeds) == (6, 2)
        # The gain is the same on every image, so there is nothing to be unsure of.
        assert whole.gap_high - whole.gap_low < 1e-9


def test_a_perfect_proxy_has_no_gap():
    assert [point.gap for point in gaming_points(panels(0.5, 0.5))] == pytest.approx([0.0, 0.0])


def test_the_interval_of_the_gap_is_paired_by_image():
    # What moves proxy and oracle alike, however much, leaves the gap exact.
    found = panels(0.5, 0.1)
    noise = np.random.default_rng(0).normal(size=12)
    shaken = {
        key: dataclasses.replace(
            one,
            values={
                run: values + (noise if run.method != "base" else 0.0)
                for run, values in one.values.items()
            },
        )
        for key, one in found.items()
    }
    _, point = gaming_points(shaken)
    assert point.proxy_high - point.proxy_low > 0.1
    assert point.gap == pytest.approx(0.4)
    assert point.gap_high - point.gap_low < 1e-9


def test_an_image_without_one_of_its_scores_counts_for_neither():
    found = panels(0.8, 0.2)
    proxy = found["aesthetic", "aesthetic"]
    values = dict(proxy.values)
    broken = values[Run("sft", 0, 20)].copy()
    broken[:2] = np.nan
    values[Run("sft", 0, 20)] = broken
    found["aesthetic", "aesthetic"] = dataclasses.replace(proxy, values=values)
    _, point = gaming_points(found)
    assert point.gap == pytest.approx(0.6)
    assert point.oracle_gain == pytest.approx(0.2)


def test_a_seed_of_which_a_judge_scored_nothing_leaves_the_point_out():
    found = panels(0.8, 0.2)
    proxy = found["aesthetic", "aesthetic"]
    values = {**proxy.values, Run("sft", 1, 20): np.full(12, np.nan)}
    found["aesthetic", "aesthetic"] = dataclasses.replace(proxy, values=values)
    assert [point.step for point in gaming_points(found)] == [10]


def test_what_was_measured_on_other_images_is_not_compared():
    assert gaming_points(panels(0.8, 0.2, suite="geneval")) == []
    assert gaming_points(panels(0.8, 0.2, images=IMAGES + 1)) == []
    found = panels(0.8, 0.2)
    del found["aesthetic", "oracle_aesthetic"]
    assert gaming_points(found) == []


def test_without_a_base_or_where_it_never_varies_there_is_no_unit():
    found = panels(0.8, 0.2)
    for key, one in found.items():
        values = {run: v for run, v in one.values.items() if run.method != "base"}
        found[key] = dataclasses.replace(one, values=values)
    assert gaming_points(found) == []
    assert gaming_points(panels(0.8, 0.2, scale=0.0)) == []
