from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from soarbench.common.errors import ConfigError
from soarbench.report.numbers.estimates import (
    Targets,
    compare,
    decided,
    estimate,
    final_comparisons,
    labelled_rng,
    refuse_unknown_metrics,
    size_of,
)
from soarbench.report.numbers.panels import Panel, Run
from soarbench.report.numbers.tables import finding, p_text
from soarbench.stats import Verdict
from soarbench.stats.clusters import cluster
from tests.report.folders import FACTS

NAN = float("nan")
PROMPTS = np.repeat([f"p{i:02d}" for i in range(30)], 2)


def panel(values, evaluator="clipscore", strata=None):
    return Panel(
        task="alignment", evaluator=evaluator, facts=FACTS[evaluator], suite="s",
        fingerprint="f", prompts=PROMPTS, images=np.tile([0, 1], 30), strata=strata,
        values={Run(*run): np.asarray(scores, dtype=float) for run, scores in values.items()},
        reasons={Run(*run): {"broken": 1} for run in values},
    )  # fmt: skip


def draws(seed, shift=0.0, spread=0.1):
    shared = np.random.default_rng(0).normal(0, 1, 60)
    return shared + shift + np.random.default_rng(seed + 1).normal(0, spread, 60)


def alone(comparison):
    """The comparison as a family of one."""
    return decided({("a", "b"): comparison})["a", "b"]


def test_an_estimate_is_the_mean_over_seeds():
    found = estimate(
        panel({("sft", 0, 5): np.full(60, 0.2), ("sft", 1, 5): np.full(60, 0.4)}), "sft", 5
    )
    assert found.interval.estimate == pytest.approx(0.3)
    assert found.interval.num_seeds == 2


def test_an_interval_is_cut_to_a_range_that_no_score_has_left():
    assert FACTS["clipscore"].value_range == (0.0, 10.0)
    kept = np.tile([0.0, 0.0, 0.0, 0.4], 15)
    assert estimate(panel({("sft", 0, 5): kept}), "sft", 5).interval.low > 0
    kept = np.where(np.arange(60) == 7, 0.4, 0.0)
    assert estimate(panel({("sft", 0, 5): kept}), "sft", 5).interval.low == 0.0
    # A head that is linear at its end: its range is the usual one.
    for left in (draws(1, 12.0), draws(1, -3.0)):
        interval = estimate(panel({("sft", 0, 5): left}), "sft", 5).interval
        assert interval.low < interval.estimate < interval.high


def test_a_comparison_is_paired():
    found = compare(
        panel({("soar", 0, 5): draws(1, 0.1), ("sft", 0, 5): draws(2)}), ("soar", 5), ("sft", 5)
    )
    difference = (draws(1, 0.1) - draws(2)).reshape(30, 2).mean(1)
    low, high = scipy_stats.t.interval(
        0.95, 29, difference.mean(), difference.std(ddof=1) / np.sqrt(30)
    )
    assert found.difference.estimate == pytest.approx(difference.mean())
    assert found.difference.low == pytest.approx(low)
    assert found.difference.high == pytest.approx(high)
    assert alone(found).verdict is Verdict.CHECKPOINT_BETTER
    quantiles = scipy_stats.t.ppf(0.975, 29) + scipy_stats.norm.ppf(0.8)
    expected = quantiles * difference.std(ddof=1) / np.sqrt(30)
    assert found.detectable is None
    assert alone(found).detectable == pytest.approx(expected)


def test_only_shared_seeds_are_compared():
    scores = {("sft", seed, 5): draws(seed) for seed in (0, 1)}
    scores |= {("soar", seed, 5): draws(seed, 0.1) for seed in (1, 2)}
    found = compare(panel(scores), ("soar", 5), ("sft", 5))
    assert found.seeds == (1,)
    assert found.difference.estimate == pytest.approx(0.1)


def test_methods_without_a_shared_seed_are_not_compared():
    scores = {("sft", 0, 5): draws(0), ("soar", 1, 5): draws(1)}
    assert compare(panel(scores), ("soar", 5), ("sft", 5)) is None


def test_a_design_that_no_difference_would_be_seen_by_says_so():
    scores = {("sft", seed, 5): draws(seed) for seed in (0, 1)}
    scores |= {("soar", seed, 5): draws(seed, 3 * seed) for seed in (0, 1)}
    found = alone(compare(panel(scores), ("soar", 5), ("sft", 5)))
    assert FACTS["clipscore"].value_range == (0.0, 10.0)
    assert found.detectable > 10
    least = f"{found.detectable:.4f}"
    assert f"; this design sees nothing ({least} is more than it can be)" in finding(found)
    shown = replace(found, detectable=0.5)
    assert "; this design sees 0.5000 or more" in finding(shown)


def test_the_base_stands_beside_every_seed():
    scores = {("base", 0, 0): draws(0, -0.5)}
    scores |= {("sft", seed, 5): draws(0) for seed in (4, 7)}
    forth = compare(panel(scores), ("base", 0), ("sft", 5))
    back = compare(panel(scores), ("sft", 5), ("base", 0))
    assert forth.seeds == back.seeds == (4, 7)
    assert forth.difference.estimate == pytest.approx(-0.5)
    assert alone(forth).verdict is Verdict.WORSE
    assert alone(back).verdict is Verdict.BETTER


def test_the_difference_of_macro_means_is_the_macro_mean_of_differences():
    strata = np.repeat(["a", "b"], [40, 20])
    first, second = draws(1), draws(2)
    both = panel({("soar", 0, 5): first, ("sft", 0, 5): second}, "geneval", strata)
    expected = [
        scores[strata == "a"].mean() + scores[strata == "b"].mean() for scores in (first, second)
    ]
    found = compare(both, ("soar", 5), ("sft", 5))
    assert found.difference.estimate == pytest.approx((expected[0] - expected[1]) / 2)
    assert estimate(both, "soar", 5).interval.estimate == pytest.approx(expected[0] / 2)


def test_unscored_images_are_counted_with_their_reason():
    scores = draws(1)
    scores[:3] = NAN
    found = estimate(panel({("sft", 0, 5): scores}), "sft", 5)
    assert found.num_unscored == 3
    assert found.reasons == ("broken",)
    assert found.interval.num_prompts == 29


def test_nothing_scored_is_a_problem_not_a_number():
    found = estimate(panel({("sft", 0, 5): np.full(60, NAN)}), "sft", 5)
    assert found.interval is None
    assert "nothing can be estimated" in found.problem


def test_correction_can_take_a_verdict_back():
    scores = {("sft", 0, 5): draws(2, 0.0, 0.3), ("soar", 0, 5): draws(1, 0.12, 0.3)}
    one = compare(panel(scores), ("soar", 5), ("sft", 5))
    assert one.verdict is Verdict.EXPLORATORY
    assert one.adjusted_p_value is None
    assert alone(one).verdict is Verdict.CHECKPOINT_BETTER
    assert one.p_value > 0.001
    family = decided({(f"method {i}", "clipscore"): one for i in range(60)})
    assert {one.verdict for one in family.values()} == {Verdict.NOT_DISTINGUISHABLE}
    assert decided({}) == {}


def test_too_many_comparisons_for_so_few_prompts_have_no_verdict():
    scores = {("sft", 0, 5): draws(2), ("soar", 0, 5): draws(1, 1.0)}
    one = compare(panel(scores), ("soar", 5), ("sft", 5))
    few = replace(one, scores=cluster(np.ones(8), np.arange(8)))
    assert alone(few).verdict is Verdict.CHECKPOINT_BETTER
    family = decided({("soar", "clipscore"): few} | {(f"m{i}", "clipscore"): one for i in range(6)})
    assert family["soar", "clipscore"].verdict is Verdict.TOO_FEW_PROMPTS
    assert "8 give p = 0.0078 at best" in family["soar", "clipscore"].problem
    assert family["m0", "clipscore"].verdict is Verdict.CHECKPOINT_BETTER


def test_only_the_deciding_metric_is_a_family():
    runs = {("sft", 0, 5): draws(2), ("soar", 0, 5): draws(1, 1.0), ("base", 0, 0): draws(3)}
    panels = {name: panel(runs, name) for name in ("clipscore", "aesthetic")}
    found = final_comparisons(panels, ("base", "sft", "soar"), "sft", Targets(metric="clipscore"))
    assert len(found) == 4
    for (_, metric), one in found.items():
        assert (one.verdict is Verdict.EXPLORATORY) == (metric == "aesthetic")
        assert (one.adjusted_p_value is None) == (metric == "aesthetic")
    assert found["soar", "clipscore"].adjusted_p_value == 2 * found["soar", "clipscore"].p_value


def test_numbers_do_not_depend_on_what_else_is_reported():
    alone = panel({("sft", 0, 5): draws(1)})
    more = panel({("soar", 0, 5): draws(2), ("sft", 0, 5): draws(1), ("sft", 0, 9): draws(3)})
    assert estimate(alone, "sft", 5) == estimate(more, "sft", 5)
    assert labelled_rng("a", 1).random() == labelled_rng("a", 1).random()
    assert labelled_rng("a", 1).random() != labelled_rng("a", 2).random()


def tie():
    scores = {("sft", seed, 5): draws(seed, 0.0, 0.3) for seed in (0, 1, 2)}
    scores |= {("soar", seed, 5): draws(seed + 7, 0.0, 0.3) for seed in (0, 1, 2)}
    return compare(panel(scores), ("soar", 5), ("sft", 5))


def test_a_tie_within_a_margin_is_equivalent():
    one = tie()
    wide = 2 * max(abs(one.difference.low), abs(one.difference.high))
    verdicts = {
        margin: decided({("a", "b"): one}, Targets(margin=margin))["a", "b"].verdict
        for margin in (None, wide, 0.5 * abs(one.difference.estimate))
    }
    assert list(verdicts.values()) == [
        Verdict.NOT_DISTINGUISHABLE, Verdict.EQUIVALENT, Verdict.NOT_DISTINGUISHABLE,
    ]  # fmt: skip


def test_what_would_decide_is_of_a_difference_named_beforehand():
    one, none = tie(), Targets()
    assert decided({("a", "b"): one}, none)["a", "b"].goal is None
    assert "would decide" not in finding(decided({("a", "b"): one}, none)["a", "b"])
    goal = 0.9 * alone(one).detectable
    published = Targets(published={"soar": 0.30, "sft": 0.30 - goal})
    open_one = decided({("a", "b"): one}, published)["a", "b"]
    assert open_one.goal == pytest.approx(goal)
    assert open_one.required.seeds > 3
    ending = f"{open_one.required.seeds:,} seeds would decide a difference of {goal:.4f}."
    assert finding(open_one).endswith(ending)
    # What was asked for counts, not what was published; and what is seen needs no more.
    seen = decided({("a", "b"): one}, replace(published, detect=5.0))["a", "b"]
    assert seen.required is None
    assert finding(seen).endswith("or more, and with it a difference of 5.0000.")


def test_what_would_not_decide_is_said_of_what_was_tried_alone():
    runs = panel({("soar", 0, 5): draws(1), ("sft", 0, 5): draws(2)})
    first = np.tile([True, False], 30)
    values = {run: scores[first] for run, scores in runs.values.items()}
    lone = replace(runs, prompts=PROMPTS[first], images=runs.images[first], values=values)
    endings = []
    for one in (runs, lone):
        compared = compare(one, ("soar", 5), ("sft", 5))
        [found] = decided({("a", "b"): compared}, Targets(detect=0.0005)).values()
        assert found.is_open
        endings.append(finding(found).partition("or more; ")[2])
    # Nothing is known of more seeds than one, nor of more images than one.
    assert endings == [
        f"up to 10,000 {levers} would not decide a difference of 0.0005."
        for levers in ("images a prompt or prompts alone", "prompts")
    ]


@pytest.mark.parametrize(
    ("p_value", "text"),
    [
        (0.0001, "< 0.001"), (0.012, "= 0.012"), (0.0496, "= 0.0496"), (0.0504, "= 0.0504"),
        (0.04999, "= 0.04999"), (0.05, "= 0.050"), (1.0, "= 1.000"),
    ],
)  # fmt: skip
def test_a_p_value_is_on_the_side_of_its_verdict(p_value, text):
    assert p_text(p_value) == text


def test_sizes_are_named_by_metric_or_title():
    facts = FACTS["clipscore"]
    assert size_of({"CLIPScore": 0.01}, facts) == size_of({"clipscore": 0.01}, facts) == 0.01
    assert size_of({"OCR": 0.01}, facts) is None
    refuse_unknown_metrics("margin", {"CLIPScore": 0.01}, [facts])
    with pytest.raises(ConfigError, match=r"margin=CLIPScor: decides nothing here; did you mean"):
        refuse_unknown_metrics("margin", {"CLIPScor": 0.01}, [facts])


@pytest.mark.parametrize(("num_differing", "is_known"), [(0, False), (4, False), (5, True)])
def test_nothing_is_said_to_be_seen_of_verdicts_that_hardly_differ(num_differing, is_known):
    right = np.tile([0.0, 1.0], 30)
    other = right.copy()
    # An image each of so many prompts.
    other[: 2 * num_differing : 2] = 1.0
    runs = panel({("soar", 0, 5): other, ("sft", 0, 5): right})
    family = {("soar", "clipscore"): compare(runs, ("soar", 5), ("sft", 5))}
    [found] = decided(family, Targets(detect=0.001)).values()
    assert found.is_open
    assert (found.detectable is not None, found.required is not None) == (is_known, is_known)
    assert ("sees" in finding(found) or "would decide" in finding(found)) == is_known
