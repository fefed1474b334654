"""Estimates of single methods and comparisons of two, from a panel of scores."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from soarbench.common.errors import ConfigError
from soarbench.common.strict import did_you_mean
from soarbench.report.numbers.panels import At, Panel
from soarbench.stats.clusters import ClusteredScores, FloatArray, cluster
from soarbench.stats.intervals import Interval, mean_interval
from soarbench.stats.power import (
    Design,
    Required,
    VarianceComponents,
    detectable_difference,
    required,
    variance_components,
)
from soarbench.stats.significance import (
    Verdict,
    equivalence_test,
    hardly_differ,
    holm,
    paired_test,
    too_few_prompts,
    verdict,
)
from soarbench.store.facts import MetricFacts

#: Of the larger end of a range: what a bounded score may be off by, as ``evaluators.base`` has it.
_ROUNDING = 1e-3
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
class Targets:
    """What a family of comparisons is to decide, as it was said before any number was known.

    Attributes:
        metric: That decides; empty where nothing says which, and all else is said of every one.
        margin: Differences below it count as none; None: no tie is called equivalent.
        detect: Difference that should be seen.
        published: Scores of methods, whose differences should be seen where ``detect`` is None.
    """

    metric: str = ""
    margin: float | None = None
    detect: float | None = None
    published: Mapping[str, float] = field(default_factory=dict)

    def difference(self, method: str, baseline: str) -> float | None:
        """The difference of two methods that should be seen; None where nothing says."""
        if self.detect is not None:
            return self.detect
        if method not in self.published or baseline not in self.published:
            return None
        return abs(self.published[method] - self.published[baseline])


def size_of(sizes: Mapping[str, float], facts: MetricFacts) -> float | None:
    """A metric's entry, by its name or its title; None where it has none."""
    names = (facts.name.lower(), facts.title.lower())
    return next((size for name, size in sizes.items() if name.lower() in names), None)


def refuse_unknown_metrics(
    key: str, sizes: Mapping[str, float], facts: Iterable[MetricFacts]
) -> None:
    """``ConfigError`` where an entry is of none of the metrics that decide, of ``facts``."""
    names = {one.name: one.title for one in facts}
    known = {name.lower() for pair in names.items() for name in pair}
    for metric in sizes:
        if metric.lower() not in known:
            # A title may hold what no command line does.
            raise ConfigError(
                f"{key}={metric}: decides nothing here; {did_you_mean(metric.lower(), names)}"
            )


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
        family_size: How many comparisons that correction is for; 0 of others.
        problem: Why so few prompts can decide nothing; empty where they can.
        components: Of the variance of the differences; None where prompts are too few to say.
        num_images: A prompt's, under every seed.
        detectable: Smallest true difference that this design would call in 80 % of cases; None
            where it is not known, as of scores that hardly differ, and of exploratory comparisons.
        goal: The difference that should be seen, of its ``Targets``.
        required: What would see it where this design does not.
    """

    method: str
    baseline: str
    facts: MetricFacts
    scores: ClusteredScores = field(repr=False, compare=False)
    difference: Interval
    seeds: tuple[int, ...]
    p_value: float
    adjusted_p_value: float | None = None
    family_size: int = 0
    verdict: Verdict = Verdict.EXPLORATORY
    problem: str = ""
    components: VarianceComponents | None = None
    num_images: int = 1
    detectable: float | None = None
    goal: float | None = None
    required: Required | None = None

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
        interval = possible(mean_interval(scores), [panel.values[run] for run in runs], panel.facts)
    return Estimate(
        interval=interval,
        num_unscored=sum(int(np.isnan(panel.values[run]).sum()) for run in runs),
        reasons=tuple(dict.fromkeys(reason for run in runs for reason in panel.reasons[run])),
        problem=problem,
    )


def possible(interval: Interval, scores: ArrayLike, facts: MetricFacts) -> Interval:
    """The interval of a mean of scores, as far as it holds values that there can be."""
    least, largest = facts.value_range
    slack = _ROUNDING * max(1.0, abs(least), abs(largest))
    # The range of a learned head is the usual one alone, and training may well leave it: cut to
    # it, a mean of 11.8 had the interval [11.4, 10.0].
    is_left = np.nanmin(scores) < least - slack or np.nanmax(scores) > largest + slack
    return interval if is_left else interval.within(facts.value_range)


def final_estimates(panels: Mapping[str, Panel], method: str) -> dict[str, Estimate]:
    """A method's numbers at its last step, by evaluator, where it has any."""
    return {
        evaluator: estimate(panel, method, panel.steps(method)[-1])
        for evaluator, panel in panels.items()
        if panel.steps(method)
    }


def compare(panel: Panel, method: At, baseline: At) -> Comparison | None:
    """Compare two methods, as yet in no family; None where no pair was scored."""
    pairs = panel.pairs(method, baseline)
    if not pairs:
        return None
    try:
        return compare_scores(
            [one - other for one, other in pairs.values()],
            panel.prompts,
            panel.strata,
            names=(method[0], baseline[0]),
            facts=panel.facts,
            seeds=tuple(pairs),
        )
    except ValueError:
        return None


def compare_scores(
    differences: Sequence[FloatArray],
    prompts: np.ndarray,
    strata: np.ndarray | None,
    *,
    names: tuple[str, str],
    facts: MetricFacts,
    seeds: tuple[int, ...],
) -> Comparison:
    """Compare by paired differences, first - second, as yet in no family.

    Args:
        differences: Of the images' scores, (N,) each, a training seed each.
        prompts: Prompt of each image; (N,).
        strata: Stratum of each image's prompt where the metric is a macro mean; (N,), else None.
        names: Of the two.
        facts: Of the metric.
        seeds: Training seeds, as ``differences``.

    Raises:
        ValueError: As ``cluster``.
    """
    scores = cluster(differences, prompts, strata=strata)
    try:
        components = variance_components(differences, prompts, strata)
    except ValueError:
        components = None  # with a prompt a stratum there is a difference, and no power to speak of
    return Comparison(
        method=names[0],
        baseline=names[1],
        facts=facts,
        scores=scores,
        difference=mean_interval(scores),
        seeds=seeds,
        p_value=paired_test(scores),
        components=components,
        num_images=int(np.unique(prompts, return_counts=True)[1].max()),
    )


def final_comparisons(
    panels: Mapping[str, Panel], methods: Iterable[str], baseline: str, targets: Targets
) -> dict[Key, Comparison]:
    """Every method's last step against the baseline's, by (method, evaluator).

    Those by the deciding metric are the family, named before any number was known; all others are
    exploratory.
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
    family = {key: one for key, one in comparisons.items() if key[1] == targets.metric}
    return comparisons | decided(family, targets)


def decided(family: Mapping[Key, Comparison], *targets: Targets) -> dict[Key, Comparison]:
    """All comparisons of one family, with p-values corrected for being many, and verdicts.

    Those that were decided in a smaller family before are decided anew. ``targets`` are one a
    metric.
    """
    members = list(family.values())
    said = [_said_of(one.facts, targets) for one in members]
    # What cannot be decided counts as tried all the same: who has a look has asked.
    adjusted = holm([one.p_value for one in members]).tolist()
    tests = zip(members, said, strict=True)
    equal = holm([equivalence_test(one.scores, own.margin or 0.0) for one, own in tests]).tolist()
    return {
        key: _decided(family[key], p_value, other, len(members), own)
        for key, p_value, other, own in zip(family, adjusted, equal, said, strict=True)
    }


def _said_of(facts: MetricFacts, targets: Sequence[Targets]) -> Targets:
    """What was said of a metric; nothing where all was said of others, whose units differ."""
    return next((one for one in targets if one.metric in ("", facts.name)), Targets())


def _decided(
    one: Comparison, p_value: float, equivalence_p_value: float, size: int, targets: Targets
) -> Comparison:
    """A comparison among ``size``, by its corrected p-values."""
    problem = too_few_prompts(one.scores, size)
    answer = verdict(
        one.difference,
        p_value,
        equivalence_p_value=equivalence_p_value,
        higher_is_better=one.facts.higher_is_better,
    )
    one = dataclasses.replace(
        one,
        adjusted_p_value=p_value,
        family_size=size,
        verdict=Verdict.TOO_FEW_PROMPTS if problem else answer,
        problem=problem,
        goal=targets.difference(one.method, one.baseline),
    )
    # Of a variance that hardly a prompt shows, no design can be said to see anything.
    if problem or one.components is None or hardly_differ(one.scores):
        return one
    design = Design(
        num_prompts=one.scores.num_prompts,
        num_images=one.num_images,
        num_seeds=one.scores.num_seeds,
        num_comparisons=size,
    )
    detectable = detectable_difference(one.components, design)
    is_short = one.is_open and one.goal is not None and detectable > one.goal
    return dataclasses.replace(
        one,
        detectable=detectable,
        # Only an open question needs to be told what would close it.
        required=required(one.components, design, one.goal or 0.0) if is_short else None,
    )
