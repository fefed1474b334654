"""Estimates of single methods and comparisons of two, from a panel of scores."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from soarbench.report.numbers.panels import At, Panel
from soarbench.stats.clusters import ClusteredScores
from soarbench.stats.intervals import Interval, mean_interval
from soarbench.stats.power import (
    minimum_detectable_difference,
    required_prompts,
    required_seeds,
    variance_components,
)
from soarbench.stats.significance import Verdict, holm, paired_test, too_few_prompts, verdict
from soarbench.store.facts import MetricFacts

#: Any number would do; it is fixed, so that the same scores give the same report.
_SEED = 2604
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A method's number at a step.

    Attributes:
        interval: Value and 95 % interval; None when nothing can be estimated.
        num_unscored: Failed measurements, left out, for these ``reasons``.
        problem: Why there is no interval.
    """

    interval: Interval | None
    num_unscored: int
    reasons: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A method against the baseline on the same images and training seeds.

    Attributes:
        scores: The paired differences themselves.
        difference: Method - baseline, with its interval.
        seeds: Training seeds that both have.
        p_value: ``paired_test``.
        adjusted_p_value: The same after Holm's correction for the family that its table decides;
            None of others, which are exploratory.
        problem: Why so few prompts can decide nothing; empty where they can.
        detectable: Smallest true difference that this design would call in 80 % of cases; None
            where prompts are too few to say.
        required_prompts: Prompts that would decide a true difference as large as the one measured,
            with these seeds; None when no number would.
        required_seeds: The same for seeds, with these prompts; None also after a single seed.
    """

    method: str
    baseline: str
    facts: MetricFacts
    scores: ClusteredScores = field(repr=False, compare=False)
    difference: Interval
    seeds: tuple[int, ...]
    p_value: float
    adjusted_p_value: float | None = None
    verdict: Verdict = Verdict.EXPLORATORY
    problem: str = ""
    detectable: float | None = None
    required_prompts: int | None = None
    required_seeds: int | None = None

    @property
    def shown_p_value(self) -> float:
        """Corrected where it belongs to a family."""
        return self.p_value if self.adjusted_p_value is None else self.adjusted_p_value

    @property
    def is_open(self) -> bool:
        """Whether it was to be decided and was not, though prompts are enough."""
        return self.verdict is Verdict.NOT_DISTINGUISHABLE


def labelled_rng(*labels: object) -> Generator:
    """A generator for one number of a report, whatever else is in the report."""
    # Not ``hash``, which differs from process to process.
    return np.random.default_rng([_SEED, zlib.crc32("/".join(map(str, labels)).encode())])


def estimate(panel: Panel, method: str, step: int) -> Estimate:
    """A method's number at a step, with its interval; holds the problem if there is none."""
    runs, interval, problem = panel.runs(method, step), None, None
    try:
        scores = panel.scores(method, step)
    except ValueError as error:
        # One judge that failed everywhere must not cost the report its other numbers.
        problem = str(error)
    else:
        interval = mean_interval(scores).within(panel.facts.value_range)
    return Estimate(
        interval=interval,
        num_unscored=sum(int(np.isnan(panel.values[run]).sum()) for run in runs),
        reasons=tuple(dict.fromkeys(reason for run in runs for reason in panel.reasons[run])),
        problem=problem,
    )


def final_estimates(panels: Mapping[str, Panel], method: str) -> dict[str, Estimate]:
    """A method's numbers at its last step, by evaluator, where it has any."""
    return {
        evaluator: estimate(panel, method, panel.steps(method)[-1])
        for evaluator, panel in panels.items()
        if panel.steps(method)
    }


def compare(panel: Panel, method: At, baseline: At) -> Comparison | None:
    """Compare two methods, as yet in no family; None where no pair was scored."""
    try:
        scores = panel.differences(method, baseline)
    except ValueError:
        return None
    return compare_scores(
        scores,
        names=(method[0], baseline[0]),
        facts=panel.facts,
        seeds=tuple(panel.pairs(method, baseline)),
    )


def compare_scores(
    scores: ClusteredScores,
    *,
    names: tuple[str, str],
    facts: MetricFacts,
    seeds: tuple[int, ...],
) -> Comparison:
    """Compare by paired differences, first - second, as yet in no family."""
    difference = mean_interval(scores)
    comparison = Comparison(
        method=names[0],
        baseline=names[1],
        facts=facts,
        scores=scores,
        difference=difference,
        seeds=seeds,
        p_value=paired_test(scores),
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


def final_comparisons(
    panels: Mapping[str, Panel], methods: Iterable[str], baseline: str, deciding: str
) -> dict[Key, Comparison]:
    """Every method's last step against the baseline's, by (method, evaluator).

    Those by the ``deciding`` metric are the family, named before any number was known; all others
    are exploratory.
    """
    comparisons = {}
    for evaluator, panel in panels.items():
        for method in methods:
            last, reference = panel.steps(method)[-1:], panel.steps(baseline)[-1:]
            # A metric that the baseline lacks is shown, and compared with nothing.
            if method != baseline and last and reference:
                one = compare(panel, (method, last[0]), (baseline, reference[0]))
                if one is not None:
                    comparisons[method, evaluator] = one
    return comparisons | decided(
        {key: one for key, one in comparisons.items() if key[1] == deciding}
    )


def decided(family: Mapping[Key, Comparison]) -> dict[Key, Comparison]:
    """All comparisons of one family, with p-values corrected for being many, and verdicts."""
    problems = [too_few_prompts(one.scores, len(family)) for one in family.values()]
    # What cannot be decided counts as tried all the same: who has a look has asked.
    adjusted = holm([comparison.p_value for comparison in family.values()])
    return {
        key: dataclasses.replace(
            one,
            adjusted_p_value=p_value,
            verdict=Verdict.TOO_FEW_PROMPTS
            if problem
            else verdict(one.difference, p_value, higher_is_better=one.facts.higher_is_better),
            problem=problem,
        )
        for (key, one), p_value, problem in zip(
            family.items(), adjusted.tolist(), problems, strict=True
        )
    }
