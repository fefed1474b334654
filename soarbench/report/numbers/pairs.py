"""Is A better than B, by how much, how sure: every answer about one pair of score sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from soarbench.common.errors import UserError
from soarbench.report.numbers.estimates import Comparison, Targets, compare_scores, decided
from soarbench.report.numbers.measured import Key, Measured
from soarbench.report.numbers.panels import At, Panel, paired, strata_of
from soarbench.report.numbers.protocols import differing, unlike_text
from soarbench.stats.clusters import FloatArray, cluster
from soarbench.stats.intervals import Interval, probability_of_improvement
from soarbench.stats.significance import McNemar, mcnemar
from soarbench.store.facts import MetricFacts

#: Scores by training seed; of a thing that was measured once, the one of seed None.
BySeed = Mapping[int | None, Measured]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Scores of two things on the same images.

    Attributes:
        names: Of the first and the second.
        scores: Of both, (N,) each, by the training seeds that they share.
        prompts: Prompt of each image; (N,).
        strata: Stratum of each image's prompt where the metric is a macro mean; (N,), else None.
    """

    names: tuple[str, str]
    evaluator: str
    facts: MetricFacts
    suite: str
    scores: Mapping[int, tuple[FloatArray, FloatArray]]
    prompts: np.ndarray
    strata: np.ndarray | None

    def __post_init__(self) -> None:
        if not self.scores:
            raise UserError(f"{' and '.join(self.names)} share no finished training seed")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a pair comes to.

    Attributes:
        values: Mean of the first and the second, over the images that both have a score of.
        comparison: The paired difference, its tests and what would decide it.
        improvement: How often the first is the better one on an image; ties count half.
        mcnemar: Where both are right-or-wrong verdicts of one training seed; it takes images as
            independent.
        num_images: A prompt's, on average.
        num_unscored: Images left out because either has no score.
    """

    evaluator: str
    facts: MetricFacts
    suite: str
    values: tuple[float, float]
    comparison: Comparison
    improvement: Interval
    mcnemar: McNemar | None
    num_images: float
    num_unscored: int


def panel_pair(panel: Panel, first: At, second: At) -> Pair:
    """Two methods of a task, each with a step; ``UserError``: they share no training seed."""
    return Pair(
        names=(first[0], second[0]),
        evaluator=panel.evaluator,
        facts=panel.facts,
        suite=panel.suite,
        scores=panel.pairs(first, second),
        prompts=panel.prompts,
        strata=panel.strata,
    )


def measured_pairs(
    names: tuple[str, str], first: Mapping[Key, BySeed], second: Mapping[Key, BySeed]
) -> list[Pair]:
    """What two things (methods, cells, folders) both measured; ``UserError``: nothing alike."""
    shared = [key for key in first if key in second]
    if not shared:
        lists = [", ".join(f"{judge} on {suite}" for suite, judge in s) for s in (first, second)]
        raise UserError(
            f"{names[0]} ({lists[0]}) and {names[1]} ({lists[1]}) have no measurement in common"
        )
    return [_measured_pair(names, first[key], second[key]) for key in shared]


def _measured_pair(names: tuple[str, str], first: BySeed, second: BySeed) -> Pair:
    pairs = paired(first, second)
    for one, other in pairs.values():
        _refuse_unlike(one, other)
    one = next(iter(first.values()))
    # Seeds may have lost other prompts each, with their tags.
    tags = {
        prompt: tag for pair in pairs.values() for side in pair for prompt, tag in side.tags.items()
    }
    return Pair(
        names=names,
        evaluator=one.facts.name,
        facts=one.facts,
        suite=one.scores.suite,
        scores={seed: (a.scores.values, b.scores.values) for seed, (a, b) in pairs.items()},
        prompts=one.scores.prompts,
        strata=strata_of(one.scores.prompts, tags) if one.facts.is_macro_mean else None,
    )


def _refuse_unlike(first: Measured, second: Measured) -> None:
    """Refuse what was judged otherwise, or on other images."""
    a, b = first.protocol, second.protocol
    # How a folder's images were made is nobody's to say; then judge and prompts must agree.
    if "seed_rule" not in a or "seed_rule" not in b:
        keys = (a.keys() & b.keys()) | {key for key in (*a, *b) if key.startswith("evaluator")}
        a, b = ({key: p[key] for key in keys if key in p} for p in (a, b))
    fields = differing(a, b)
    prints = (first.scores.fingerprint, second.scores.fingerprint)
    # Where a protocol was not kept, its fingerprint still tells that it was another.
    if not fields and not (first.protocol and second.protocol) and prints[0] != prints[1]:
        fields = [f"fingerprint: {prints[0]} against {prints[1]}"]
    if fields:
        raise UserError(unlike_text(first.facts.name, first.source, second.source, fields))
    # Pairs are taken by position: both must have judged the same images in the same order.
    ones, others = first.scores, second.scores
    if not (
        np.array_equal(ones.images, others.images) and np.array_equal(ones.prompts, others.prompts)
    ):
        raise UserError(
            f"{first.facts.name} judged {ones.values.size} images in {first.source} and "
            f"{others.values.size} in {second.source}, not of the same prompts and indices; score "
            "the same ones (suites.NAME.max_prompts and images_per_prompt)"
        )


def answers(pairs: Sequence[Pair], *targets: Targets) -> list[Answer]:
    """Answer every pair; ``UserError``: both scored no image of one.

    Those by the metrics of ``targets`` are the family; where none of them was measured, all are.
    """
    alone = [_answer(pair) for pair in pairs]
    deciding = {one.metric for one in targets}
    own = [one for one in alone if one.evaluator in deciding] or alone
    family = decided({(one.suite, one.evaluator): one.comparison for one in own}, *targets)
    return [
        replace(one, comparison=family.get((one.suite, one.evaluator), one.comparison))
        for one in alone
    ]


def _answer(pair: Pair) -> Answer:
    first, second = (np.stack(rows) for rows in zip(*pair.scores.values(), strict=True))
    both, sign = ~np.isnan(first - second), pair.facts.sign
    try:
        scores = cluster(first - second, pair.prompts, strata=pair.strata)
        # Turned so that above is better, since improvement counts who is above.
        improvement = probability_of_improvement(sign * first, sign * second, pair.prompts)
    except ValueError as error:
        names = " and ".join(pair.names)
        raise UserError(
            f"{pair.evaluator} of {names}: {error}; metric=NAME compares by another one alone"
        ) from error
    comparison = compare_scores(
        list(first - second),
        pair.prompts,
        pair.strata,
        names=pair.names,
        facts=pair.facts,
        seeds=tuple(pair.scores),
    )
    # Over the images that both have a score of, so that the values differ by the difference.
    shown = [np.where(both, side, np.nan) for side in (first, second)]
    means = [cluster(side, pair.prompts, strata=pair.strata).mean() for side in shown]
    return Answer(
        evaluator=pair.evaluator,
        facts=pair.facts,
        suite=pair.suite,
        values=(means[0], means[1]),
        comparison=comparison,
        improvement=improvement,
        mcnemar=_mcnemar(first, second, correct=max(sign, 0.0)),
        num_images=scores.num_values / scores.num_prompts / scores.num_seeds,
        num_unscored=int((~both).sum()),
    )


def _mcnemar(first: FloatArray, second: FloatArray, *, correct: float) -> McNemar | None:
    """The test of two sets of verdicts, (S, N); None where it does not apply."""
    # It would take the images of one prompt under several seeds as so many independent ones, and
    # count those of an untrained base once a seed.
    if len(first) > 1:
        return None
    both = ~np.isnan(first - second)
    if not np.isin(np.concatenate([first[both], second[both]]), (0.0, 1.0)).all():
        return None
    return mcnemar(first[both] == correct, second[both] == correct)
