"""Estimates of single methods and comparisons of two, from a panel of scores."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from soarbench.report.numbers.panels import Panel
from soarbench.stats import (
    ClusteredScores,
    Interval,
    Verdict,
    holm,
    mean_interval,
    minimum_detectable_difference,
    paired_permutation_test,
    required_prompts,
    required_seeds,
    variance_components,
    verdict,
)
from soarbench.store.facts import MetricFacts

#: Any number would do; it is fixed, so that the same scores give the same report.
_SEED = 2604
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A method's number at a step.

    Attributes:
        interval: Value and 95 % interval; None when nothing can be estimated.
        seeds: Training seeds in it.
        num_unscored: Failed measurements, left out.
        reasons: Why they failed.
        problem: Why there is no interval.
    """

    interval: Interval | None
    seeds: tuple[int, ...]
    num_unscored: int
    reasons: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A method against the baseline on the same images and training seeds.

    Attributes:
        method: Compared.
        baseline: Compared with.
        facts: About the metric; they say which way is better.
        difference: Method - baseline, with its interval.
        seeds: Training seeds that both have.
        p_value: Paired permutation test.
        adjusted_p_value: The same after Holm's correction for the family it was reported in.
        verdict: What it comes to.
        detectable: Smallest true difference that this design would call in 80 % of cases.
        required_prompts: Prompts that would decide a true difference as large as the one measured,
            with these seeds; None when no number would.
        required_seeds: The same for seeds, with these prompts; None also after a single seed.
    """

    method: str
    baseline: str
    facts: MetricFacts
    difference: Interval
    seeds: tuple[int, ...]
    p_value: float
    adjusted_p_value: float
    verdict: Verdict
    detectable: float | None
    required_prompts: int | None
    required_seeds: int | None


def labelled_rng(*labels: object) -> Generator:
    """A generator for one number of a report, whatever else is in the report."""
    # Not ``hash``, which differs from process to process.
    return np.random.default_rng([_SEED, zlib.crc32("/".join(map(str, labels)).encode())])


def estimate(panel: Panel, method: str, step: int) -> Estimate:
    """A method's number at a step, with its interval; holds the problem if there is none."""
    seeds, unscored = panel.seeds(method, step), panel.num_unscored(method, step)
    interval, problem = None, None
    try:
        scores = panel.scores(method, step)
    except ValueError as error:
        problem = str(error)
    else:
        rng = labelled_rng(panel.task, panel.evaluator, method, step)
        interval = mean_interval(scores, rng)
    return Estimate(
        interval=interval,
        seeds=tuple(seeds),
        num_unscored=unscored,
        reasons=panel.why_unscored(method, step),
        problem=problem,
    )


def compare(panel: Panel, method: tuple[str, int], baseline: tuple[str, int]) -> Comparison | None:
    """Compare two methods, each named with a step.

    Returns:
        The comparison, as if it were the only one; None when no pair of images was scored.
    """
    try:
        scores = panel.differences(method, baseline)
    except ValueError:
        return None
    _, _, seeds = panel.pairs(method, baseline)
    return compare_scores(
        scores,
        labelled_rng(panel.task, panel.evaluator, *method, *baseline),
        names=(method[0], baseline[0]),
        facts=panel.facts,
        seeds=tuple(seeds),
    )


def compare_scores(
    scores: ClusteredScores,
    rng: Generator,
    *,
    names: tuple[str, str],
    facts: MetricFacts,
    seeds: tuple[int, ...],
) -> Comparison:
    """Compare by paired differences, as if it were the only comparison.

    Args:
        scores: Differences, first - second.
        rng: Source of randomness.
        names: Of the first and the second.
        facts: About the metric; they say which way is better.
        seeds: Training seeds in them.
    """
    difference = mean_interval(scores, rng)
    p_value = paired_permutation_test(scores, rng)
    comparison = Comparison(
        method=names[0],
        baseline=names[1],
        facts=facts,
        difference=difference,
        seeds=seeds,
        p_value=p_value,
        adjusted_p_value=p_value,
        verdict=verdict(difference, p_value, higher_is_better=facts.higher_is_better),
        detectable=None,
        required_prompts=None,
        required_seeds=None,
    )
    try:
        components = variance_components(scores)
    except ValueError:
        return comparison  # with a prompt a stratum there is a difference, and no power to speak of
    prompts, count, size = scores.num_prompts, scores.num_seeds, difference.estimate
    return dataclasses.replace(
        comparison,
        detectable=minimum_detectable_difference(components, prompts, count),
        required_prompts=required_prompts(components, size, count),
        required_seeds=required_seeds(components, size, prompts),
    )


def corrected(family: Mapping[Key, Comparison]) -> dict[Key, Comparison]:
    """Correct a family of comparisons for being many.

    Args:
        family: All comparisons of one table, by (method, evaluator).

    Returns:
        The same with adjusted p-values and the verdicts that follow from these.
    """
    # The verdict follows the corrected p-value: with many comparisons one is small by chance.
    adjusted = holm([comparison.p_value for comparison in family.values()])
    return {
        key: dataclasses.replace(
            one,
            adjusted_p_value=p_value,
            verdict=verdict(one.difference, p_value, higher_is_better=one.facts.higher_is_better),
        )
        for (key, one), p_value in zip(family.items(), adjusted.tolist(), strict=True)
    }
