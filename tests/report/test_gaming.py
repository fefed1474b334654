"""Score against truth: units, pairing, what it is held against, and the benchmark of choosing."""

import dataclasses

import numpy as np
import pytest

from soarbench.report.numbers.gaming import measure_gaming
from soarbench.report.numbers.panels import Panel, Run
from soarbench.report.text.gaming import gaming_note, gaming_texts, sign_numbers
from tests.report.folders import FACTS

NUM_PROMPTS = 6
PROMPTS = np.repeat([f"p{i}" for i in range(NUM_PROMPTS)], 2)
IMAGES = np.tile([0, 1], NUM_PROMPTS)
BASE = np.tile([-1.0, 1.0], NUM_PROMPTS)  # mean 0, standard deviation 1
#: Of the truth, at which the score's choice is right in five prompts of six.
TRUTH = np.concatenate([BASE[:-2], -BASE[-2:]])


def panel(evaluator, values, **changes):
    made = Panel(
        task="aesthetic", evaluator=evaluator, facts=FACTS[evaluator], suite="drawbench",
        fingerprint="f", prompts=PROMPTS, images=IMAGES, strata=None,
        values=values, reasons={run: {} for run in values},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def panels(gains, scale=1.0, truth="oracle_aesthetic", **changes):
    """Gains of both by method, the same for every image, in standard deviations of the base."""
    base = Run("base", 0, 0)
    values = [{base: BASE}, {base: scale * TRUTH}]
    for method, both in gains.items():
        for side, start, unit in ((0, BASE, 1.0), (1, TRUTH, scale)):
            for seed in (0, 1):
                for step in (10, 20):
                    values[side][Run(method, seed, step)] = unit * (start + both[side] * step / 20)
    return {
        ("aesthetic", "aesthetic"): panel("aesthetic", values[0]),
        ("aesthetic", truth): panel(truth, values[1], **changes),
    }


def measure(of, trained=(), baseline="sft"):
    return measure_gaming(of, {"aesthetic": trained}, baseline)


def last(one, method, since="base"):
    return next(p for p in reversed(one.points) if (p.method, p.since) == (method, since))


def test_gains_are_in_the_bases_spread_whatever_the_scale():
    for scale in (1.0, 100.0):
        [one] = measure(panels({"sft": (0.8, 0.2)}, scale))
        base, half, whole = one.points
        assert (base.method, half.step, whole.step) == ("base", 10, 20)
        assert (base.proxy_gain.estimate, base.shortfall.estimate) == (0, 0)
        assert whole.proxy_gain.estimate == pytest.approx(0.8)
        assert whole.true_gain.estimate == pytest.approx(0.2)
        assert whole.rate == pytest.approx(0.25)
        # The better of two images is 1 above their mean; the truth follows in 5 of 6 prompts.
        assert one.benchmark.proxy_gains == pytest.approx((1.0,))
        assert one.benchmark.rate.estimate == pytest.approx(4 / 6)
        assert whole.shortfall.estimate == pytest.approx(0.8 * 4 / 6 - 0.2)
        assert half.shortfall.estimate == pytest.approx(0.4 * 4 / 6 - 0.1)
        assert (whole.shortfall.num_prompts, whole.shortfall.num_seeds) == (6, 2)
        # Of prompts that gain alike, all that is unsure is the rate.
        rate = one.benchmark.rate
        assert whole.true_gain.high - whole.true_gain.low < 1e-9
        width = whole.shortfall.high - whole.shortfall.low
        assert width == pytest.approx(0.8 * (rate.high - rate.low), rel=0.1)


def test_gains_at_the_benchmarks_rate_have_no_shortfall():
    [one] = measure(panels({"sft": (0.6, 0.4), "soar": (0.9, 0.6), "flow_grpo": (0.9, 0.0)}))
    shortfalls = [last(one, name).shortfall.estimate for name in ("sft", "soar", "flow_grpo")]
    assert shortfalls == pytest.approx([0.0, 0.0, 0.6])
    levels = {method: level.difference.estimate for (method, _), level in one.levels.items()}
    assert levels == pytest.approx(dict(zip(("sft", "soar", "flow_grpo"), shortfalls, strict=True)))
    contrast = one.contrasts["flow_grpo", "base"]
    assert (contrast.method, contrast.baseline) == ("flow_grpo", "sft")
    assert contrast.difference.estimate == pytest.approx(0.6)
    assert contrast.adjusted_p_value > contrast.p_value > 0


def test_a_second_stage_is_measured_since_the_end_of_its_first():
    gains = {"sft": (0.6, 0.4), "soar": (0.9, 0.6)}
    gains |= {"sft_then_flow_grpo": (0.9, 0.6), "soar_then_flow_grpo": (1.2, 0.6)}
    [one] = measure(panels(gains), baseline="sft_then_flow_grpo")
    stage = last(one, "soar_then_flow_grpo", "soar")
    assert stage.proxy_gain.estimate == pytest.approx(0.3)
    assert stage.true_gain.estimate == pytest.approx(0.0)
    assert stage.shortfall.estimate == pytest.approx(0.2)
    assert [p.step for p in one.points if p.since == "soar"] == [20]
    # Stage against stage: the baseline's own gained at the benchmark's rate.
    contrast = one.contrasts["soar_then_flow_grpo", "soar"]
    assert contrast.difference.estimate == pytest.approx(0.2)
    assert {key for key in one.contrasts if key[1] != "base"} == {("soar_then_flow_grpo", "soar")}
    # Of a method and its own first stage it would be the shortfall since that, in two families.
    of_base = {method for method, since in one.contrasts if since == "base"}
    assert of_base == {"soar", "soar_then_flow_grpo"}
    names = list(gaming_texts(one, {})["Method"])
    assert names[-1] == "SOAR → Flow-GRPO, since SOAR"


def test_the_interval_of_the_shortfall_is_paired_by_image():
    # What moves score and truth in the benchmark's proportion leaves the shortfall exact.
    both = panels({"sft": (0.5, 0.1)})
    noise = np.random.default_rng(0).normal(size=12)
    for (key, one), share in zip(both.items(), (1.0, 4 / 6), strict=True):
        values = {
            run: old if run.method == "base" else old + share * noise
            for run, old in one.values.items()
        }
        both[key] = dataclasses.replace(one, values=values)
    [one] = measure(both)
    point, rate = last(one, "sft"), one.benchmark.rate
    assert point.proxy_gain.high - point.proxy_gain.low > 0.1
    gain = point.proxy_gain.estimate
    assert point.shortfall.estimate == pytest.approx(gain * 4 / 6 - point.true_gain.estimate)
    width = point.shortfall.high - point.shortfall.low
    assert width == pytest.approx(gain * (rate.high - rate.low), rel=0.15)


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_an_image_without_one_of_its_scores_counts_for_neither(lost):
    both = panels({"sft": (0.8, 0.2)})
    proxy = both["aesthetic", "aesthetic"]
    broken = proxy.values[Run("sft", 0, 20)].copy()
    broken[:2] = lost
    values = {**proxy.values, Run("sft", 0, 20): broken}
    both["aesthetic", "aesthetic"] = dataclasses.replace(proxy, values=values)
    [one] = measure(both)
    point = last(one, "sft")
    assert point.true_gain.estimate == pytest.approx(0.2)
    assert point.shortfall.estimate == pytest.approx(0.8 * 4 / 6 - 0.2)


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_prompt_that_the_base_lacks_is_left_out_of_the_benchmark(lost):
    both = panels({"sft": (0.8, 0.2)})
    proxy = both["aesthetic", "aesthetic"]
    start = BASE.copy()
    # The one prompt in which the truth does not follow the score.
    start[-2:] = lost
    values = {**proxy.values, Run("base", 0, 0): start}
    both["aesthetic", "aesthetic"] = dataclasses.replace(proxy, values=values)
    [one] = measure(both)
    assert one.benchmark.rate.estimate == pytest.approx(1.0)
    assert last(one, "sft").shortfall.estimate == pytest.approx(0.8 - 0.2)


def test_a_seed_of_which_a_judge_scored_nothing_leaves_the_point_out():
    both = panels({"sft": (0.8, 0.2)})
    proxy = both["aesthetic", "aesthetic"]
    values = {**proxy.values, Run("sft", 1, 20): np.full(12, np.nan)}
    both["aesthetic", "aesthetic"] = dataclasses.replace(proxy, values=values)
    [one] = measure(both)
    assert [point.step for point in one.points] == [0, 10]
    assert not one.levels
    # Nor does the table show step 10 in the place of the last one.
    assert gaming_texts(one, {})["Method"].tolist() == ["Base"]


def test_methods_that_failed_on_other_images_each_have_no_contrast():
    both = panels({"sft": (0.8, 0.2), "soar": (0.8, 0.4)})
    proxy = both["aesthetic", "aesthetic"]
    halves = {Run("sft", 1, 20): slice(0, 6), Run("soar", 1, 20): slice(6, 12)}
    values = {run: scores.copy() for run, scores in proxy.values.items()}
    for run, half in halves.items():
        values[run][half] = np.nan
    both["aesthetic", "aesthetic"] = dataclasses.replace(proxy, values=values)
    [one] = measure(both)
    assert set(one.levels) == {("sft", "base"), ("soar", "base")}
    assert not one.contrasts


def test_what_was_measured_on_other_images_is_not_compared():
    assert measure(panels({"sft": (0.8, 0.2)}, suite="geneval")) == []
    assert measure(panels({"sft": (0.8, 0.2)}, images=IMAGES + 1)) == []
    both = panels({"sft": (0.8, 0.2)})
    del both["aesthetic", "oracle_aesthetic"]
    assert measure(both) == []


def test_without_a_base_or_where_it_never_varies_there_is_no_unit():
    both = panels({"sft": (0.8, 0.2)})
    for key, one in both.items():
        values = {run: v for run, v in one.values.items() if run.method != "base"}
        both[key] = dataclasses.replace(one, values=values)
    assert measure(both) == []
    assert measure(panels({"sft": (0.8, 0.2)}, scale=0.0)) == []
    # The standard deviation of twelve times .7 is 1e-16, of which gains were 1e16.
    both = panels({"sft": (0.8, 0.2)})
    proxy = both["aesthetic", "aesthetic"]
    values = {**proxy.values, Run("base", 0, 0): np.full(12, 0.7)}
    both["aesthetic", "aesthetic"] = dataclasses.replace(proxy, values=values)
    assert measure(both) == []


def test_without_an_oracle_a_trained_score_is_held_against_held_out_judges_and_it_is_said():
    both = panels({"sft": (0.8, 0.2)}, truth="clipscore")
    assert measure(both) == []
    [one] = measure(both, trained={"aesthetic"})
    assert (one.proxy.name, one.truth.name) == ("aesthetic", "clipscore")
    assert "no oracle of Aesthetic" in gaming_note(one)
    # Two that were both trained on say nothing about each other.
    assert measure(both, trained={"aesthetic", "clipscore"}) == []
    [known] = measure(panels({"sft": (0.8, 0.2)}), trained={"aesthetic"})
    assert "no oracle" not in gaming_note(known)


def test_one_image_a_prompt_gives_gains_and_says_that_there_is_no_benchmark():
    names = np.array([f"p{i}" for i in range(12)])
    both = {
        key: dataclasses.replace(one, prompts=names)
        for key, one in panels({"sft": (0.8, 0.2)}).items()
    }
    [one] = measure(both)
    point = last(one, "sft")
    assert point.proxy_gain.estimate == pytest.approx(0.8)
    assert (one.benchmark, point.shortfall, point.correlation) == (None, None, None)
    assert "at least 2 images" in gaming_note(one)
    assert not len(sign_numbers([one], []))


def test_the_correlation_falls_where_the_score_loses_sight_of_the_truth():
    both = panels({"sft": (0.5, 0.4)})
    truth = both["aesthetic", "oracle_aesthetic"]
    values = {
        run: old if run.method == "base" else old[np.arange(12) ^ 1]
        for run, old in truth.values.items()
    }
    both["aesthetic", "oracle_aesthetic"] = dataclasses.replace(truth, values=values)
    [one] = measure(both)
    # Right in five prompts of six, then wrong in five of six.
    assert one.points[0].correlation.estimate == pytest.approx(4 / 6)
    assert last(one, "sft").correlation.estimate == pytest.approx(-4 / 6)
