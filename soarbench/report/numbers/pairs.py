"""Is A better than B, by how much, how sure: every answer about one pair of score sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from soarbench.common.errors import UserError
from soarbench.report.numbers.estimates import Comparison, compare_scores, corrected, labelled_rng
from soarbench.report.numbers.measured import Key, Measured
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.protocols import differing, unlike_text
from soarbench.stats import (
    Interval,
    McNemar,
    cluster_pairs,
    mcnemar,
    probability_of_improvement,
)
from soarbench.stats.clusters import FloatArray
from soarbench.store.facts import MetricFacts


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Scores of two things on the same images.

    Attributes:
        names: Of the first and the second.
        evaluator: The metric.
        facts: About it.
        suite: Name of the prompts.
        first: Scores; (S, N) for S training seeds.
        second: The same of the other.
        prompts: Prompt of each image; (N,).
        strata: Stratum of each image's prompt where the metric is a macro mean; (N,), else None.
        seeds: Training seeds that both have.
        label: Of its random numbers; those of a report's comparison where it is one.
    """

    names: tuple[str, str]
    evaluator: str
    facts: MetricFacts
    suite: str
    first: FloatArray
    second: FloatArray
    prompts: np.ndarray
    strata: np.ndarray | None
    seeds: tuple[int, ...]
    label: tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a pair comes to.

    Attributes:
        evaluator: The metric.
        facts: About it.
        suite: Name of the prompts.
        values: Mean of the first and the second, over the images that both have a score of.
        comparison: The paired difference, its tests and what would decide it.
        improvement: How often the first is the better one on an image; ties count half.
        mcnemar: Where both are right-or-wrong verdicts; it takes images as independent.
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


def panel_pair(panel: Panel, first: tuple[str, int], second: tuple[str, int]) -> Pair:
    """Two methods of a task, each with a step.

    Raises:
        UserError: They share no training seed.
    """
    one, other, seeds = panel.pairs(first, second)
    if not seeds:
        raise UserError(f"{first[0]} and {second[0]} share no finished training seed")
    return Pair(
        names=(first[0], second[0]),
        evaluator=panel.evaluator,
        facts=panel.facts,
        suite=panel.suite,
        first=one,
        second=other,
        prompts=panel.prompts,
        strata=panel.strata,
        seeds=tuple(seeds),
        label=(panel.task, panel.evaluator, *first, *second),
    )


BySeed = Mapping[int | None, Measured]
"""Scores by training seed; of a thing that was measured once, the one of seed None."""


def measured_pairs(
    names: tuple[str, str], first: Mapping[Key, BySeed], second: Mapping[Key, BySeed]
) -> list[Pair]:
    """What two things (methods, cells, folders) both measured.

    Raises:
        UserError: Nothing, or under different protocols, or on other images.
    """
    shared = [key for key in first if key in second]
    if not shared:
        lists = [", ".join(f"{judge} on {suite}" for suite, judge in s) for s in (first, second)]
        raise UserError(
            f"{names[0]} ({lists[0]}) and {names[1]} ({lists[1]}) have no measurement in common"
        )
    return [_measured_pair(names, first[key], second[key]) for key in shared]


def _measured_pair(names: tuple[str, str], first: BySeed, second: BySeed) -> Pair:
    seeds = {seed for side in (first, second) for seed in side}
    # What was measured once stands beside every seed of the other.
    shared: list[int | None] = [
        seed for seed in seeds if all(seed in side or None in side for side in (first, second))
    ]
    if len(shared) > 1:
        shared = list(sorted(seed for seed in shared if seed is not None))
    if not shared:
        raise UserError(f"{names[0]} and {names[1]} share no finished training seed")
    rows = [
        [side[seed] if seed in side else side[None] for seed in shared] for side in (first, second)
    ]
    for one, other in zip(*rows, strict=True):
        _refuse_unlike(one, other)
    one = rows[0][0]
    return Pair(
        names=names,
        evaluator=one.evaluator,
        facts=one.facts,
        suite=one.suite,
        first=np.stack([row.values for row in rows[0]]),
        second=np.stack([row.values for row in rows[1]]),
        prompts=one.prompts,
        strata=one.strata,
        seeds=tuple(seed or 0 for seed in shared),
        label=(one.suite, one.evaluator),
    )


def _refuse_unlike(first: Measured, second: Measured) -> None:
    """Refuse what was judged otherwise, or on other images.

    How a folder's images were made is nobody's to say; then the judge and the prompts must agree.
    """
    a, b = first.protocol, second.protocol
    if "seed_rule" not in a or "seed_rule" not in b:
        keys = (a.keys() & b.keys()) | {key for key in (*a, *b) if key.startswith("evaluator")}
        a, b = ({key: p[key] for key in keys if key in p} for p in (a, b))
    fields = differing(a, b)
    if not fields and not (first.protocol and second.protocol):
        prints = (first.fingerprint, second.fingerprint)
        fields = [f"fingerprint: {prints[0]} against {prints[1]}"] if len(set(prints)) > 1 else []
    if fields:
        raise UserError(unlike_text(first.evaluator, first.source, second.source, fields))
    # Pairs are taken by position: both must have judged the same images in the same order.
    if not np.array_equal(first.images, second.images) or not np.array_equal(
        first.prompts, second.prompts
    ):
        raise UserError(
            f"{first.evaluator} judged {first.values.size} images in {first.source} and "
            f"{second.values.size} in {second.source}, not of the same prompts and indices; score "
            "the same ones"
        )


def answers(pairs: Sequence[Pair]) -> list[Answer]:
    """Answer every pair; p-values are corrected for all of them together.

    Raises:
        UserError: A pair has no image that both scored.
    """
    alone = [_answer(pair) for pair in pairs]
    family = corrected({(one.suite, one.evaluator): one.comparison for one in alone})
    return [replace(one, comparison=family[one.suite, one.evaluator]) for one in alone]


def _answer(pair: Pair) -> Answer:
    first, second = pair.first.ravel(), pair.second.ravel()
    prompts = np.tile(pair.prompts, len(pair.seeds))
    seeds = np.repeat(pair.seeds, pair.prompts.size)
    strata = None if pair.strata is None else np.tile(pair.strata, len(pair.seeds))
    # Turned so that above is better, since improvement counts who is above.
    both, sign = ~np.isnan(first - second), pair.facts.sign
    rng = labelled_rng("improvement", *pair.label)
    try:
        scores = cluster_pairs(first, second, prompts, seeds=seeds, strata=strata)
        improvement = probability_of_improvement(
            sign * first, sign * second, prompts, rng, seeds=seeds
        )
    except ValueError as error:
        raise UserError(f"{pair.evaluator} of {' and '.join(pair.names)}: {error}") from error
    comparison = compare_scores(
        scores,
        labelled_rng(*pair.label),
        names=pair.names,
        facts=pair.facts,
        seeds=pair.seeds,
    )
    # Over the images that both have a score of, so that the values differ by the difference.
    means = [
        cluster_pairs(
            np.where(both, side, np.nan), np.zeros_like(side), prompts, seeds=seeds, strata=strata
        ).mean()
        for side in (first, second)
    ]
    return Answer(
        evaluator=pair.evaluator,
        facts=pair.facts,
        suite=pair.suite,
        values=(means[0], means[1]),
        comparison=comparison,
        improvement=improvement,
        mcnemar=_mcnemar(first[both], second[both], correct=max(sign, 0.0)),
        num_images=scores.num_values / scores.num_prompts / scores.num_seeds,
        num_unscored=int((~both).sum()),
    )


def _mcnemar(first: FloatArray, second: FloatArray, *, correct: float) -> McNemar | None:
    """The test of two sets of verdicts; None where scores are not 0 or 1."""
    if not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        return None
    return mcnemar(first == correct, second == correct)
