"""Score against truth as data: is more of a gain untrue than an imperfect score explains?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from soarbench.config.stages import first_stage
from soarbench.report.numbers.estimates import Comparison, compare_scores, decided
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import At, Panel
from soarbench.report.numbers.tables import Panels
from soarbench.stats.best_of import (
    PickingRate,
    correlation_terms,
    picking_gains,
    picking_rate,
)
from soarbench.stats.clusters import ClusteredScores, FloatArray, IntArray, cluster, image_spread
from soarbench.stats.intervals import Interval, mean_interval
from soarbench.store.facts import MetricFacts


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What choosing among the base's images by the score gains, without any training.

    Attributes:
        counts: Images of a prompt to choose from, 2 to as many as each has.
        proxy_gains: Mean gain of the score over a prompt's mean image, one a count.
        true_gains: Of the truth in the same choice.
        rate: True gain for each unit of the score's, at the largest count.
    """

    counts: tuple[int, ...]
    proxy_gains: tuple[float, ...]
    true_gains: tuple[float, ...]
    rate: Interval


@dataclass(frozen=True, kw_only=True)
class GamingPoint:
    """What a method gained on a score and on the truth, in SDs of the base's images.

    More is better, also where a lower score is. Intervals are paired by image and training seed.

    Attributes:
        since: What gains are over: the base, or the method's first stage at its end.
        shortfall: ``rate * proxy_gain - true_gain``, the true gain that the score's would bring at
            the benchmark's rate and that is not there; None without a benchmark.
        correlation: Of both scores of an image, within prompts, pooled over prompts and averaged
            over seeds; None with one image a prompt.
    """

    method: str
    step: int
    since: str
    proxy_gain: Interval
    true_gain: Interval
    shortfall: Interval | None
    correlation: Interval | None

    @property
    def rate(self) -> float:
        """True gain for each unit of the score's; nan where the score's may be zero."""
        if not self.proxy_gain.excludes_zero:
            return math.nan
        return self.true_gain.estimate / self.proxy_gain.estimate


@dataclass(frozen=True, kw_only=True)
class Gaming:
    """A learned score of a task against what it stands for.

    Attributes:
        truth: The score's oracle or, where there is none, a held-out judge.
        points: Of every method at every step since the base, and of later stages at their end since
            the first one's.
        ends: Last step of every method, of which there may be no point.
        levels: Each last shortfall against none, corrected for their number; by method and since.
        contrasts: Differences of last shortfalls to the baseline's, corrected likewise.
    """

    task: str
    proxy: MetricFacts
    truth: MetricFacts
    benchmark: Benchmark | None
    points: tuple[GamingPoint, ...]
    ends: Mapping[str, int]
    levels: Mapping[tuple[str, str], Comparison]
    contrasts: Mapping[tuple[str, str], Comparison]


def measure_gaming(
    panels: Panels, trained: Mapping[str, Collection[str]], baseline: str
) -> list[Gaming]:
    """Measure every learned score beside its oracle, or a trained one beside held-out judges.

    ``trained`` names what drove training, by task; contrasts are taken to the ``baseline``.
    """
    pairs = (
        (proxy, truth)
        for proxy in panels.values()
        for truth in _truths(proxy, panels, trained.get(proxy.task, ()))
    )
    sides = (_sides(proxy, truth) for proxy, truth in pairs)
    return [_gaming(both, baseline) for both in sides if both is not None]


def _truths(proxy: Panel, panels: Panels, trained: Collection[str]) -> list[Panel]:
    """What a score is held against, on the same images: its oracles, else held-out judges."""
    others = [other for other in panels.values() if other is not proxy and _alike(proxy, other)]
    oracles = [other for other in others if proxy.evaluator in other.facts.oracle_of]
    # Published models have no oracle; only what was trained on can have been gamed.
    if oracles or proxy.evaluator not in trained:
        return oracles
    return [o for o in others if o.evaluator not in trained and not o.facts.is_oracle]


def _alike(first: Panel, second: Panel) -> bool:
    return (
        (first.task, first.suite) == (second.task, second.suite)
        and np.array_equal(first.prompts, second.prompts)
        and np.array_equal(first.images, second.images)
    )


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """Score and truth of the same images; ``spreads`` are the base's, ``prompts`` codes (N,)."""

    proxy: Panel
    truth: Panel
    base: At
    spreads: tuple[float, float]
    prompts: IntArray

    def values(self, at: At) -> list[FloatArray]:
        """Both scores of every seed; (2, N) each."""
        sides = [
            {run.seed: panel.values[run] for run in panel.runs(*at)}
            for panel in (self.proxy, self.truth)
        ]
        return list(self._joined(sides).values())

    def gains(self, at: At, since: At) -> dict[int, FloatArray]:
        """What both gained, by seed, (2, N); empty where a seed has no image with both scores."""
        sides = [
            {seed: one - other for seed, (one, other) in panel.pairs(at, since).items()}
            for panel in (self.proxy, self.truth)
        ]
        gains = self._joined(sides)
        # Nothing that both scored in some seed is no gain; the table's gaps say so.
        return {} if any(np.isnan(both).all() for both in gains.values()) else gains

    def _joined(self, sides: Sequence[Mapping[int, FloatArray]]) -> dict[int, FloatArray]:
        """Both sides in the base's spread, better up, where an image has both."""
        facts = (self.proxy.facts, self.truth.facts)
        units = [one.sign / spread for one, spread in zip(facts, self.spreads, strict=True)]
        joined = {}
        for seed, first in sides[0].items():
            if seed in sides[1]:
                both = np.stack([first * units[0], sides[1][seed] * units[1]])
                # An image without one of its two scores would shift one and not the other.
                joined[seed] = np.where(np.isnan(both).any(axis=0), np.nan, both)
        return joined

    def table(self, values: FloatArray) -> ClusteredScores:
        """Values of images, (S, N) or (N,), by prompt."""
        return cluster(values, self.prompts)

    def interval(self, values: FloatArray) -> Interval:
        """Of the mean of such values."""
        return mean_interval(self.table(values))


def _sides(proxy: Panel, truth: Panel) -> _Sides | None:
    """None where the base lacks scores, or one of them never varies: then there is no unit."""
    proxy, truth = (_finite(panel) for panel in (proxy, truth))
    runs = [next((run for run in one.values if run.method == BASE), None) for one in (proxy, truth)]
    if runs[0] is None or runs[1] is None:
        return None
    values = [panel.values[run] for panel, run in zip((proxy, truth), runs, strict=True) if run]
    if any(np.isnan(one).all() for one in values):
        return None
    spreads = image_spread(values[0]), image_spread(values[1])
    if not all(spreads):
        return None
    return _Sides(
        proxy=proxy,
        truth=truth,
        base=(BASE, runs[0].step),
        # In the base's spread both gains have one unit, whatever the scales of score and truth.
        spreads=spreads,
        prompts=np.unique(proxy.prompts, return_inverse=True)[1].astype(np.intp),
    )


def _finite(panel: Panel) -> Panel:
    """A panel in which an infinite score, of which there is no mean, is one that failed."""
    values = {run: np.where(np.isfinite(own), own, np.nan) for run, own in panel.values.items()}
    return replace(panel, values=values)


def _gaming(both: _Sides, baseline: str) -> Gaming:
    benchmark, rate = _benchmark(both)
    points = list(_points(both, rate))
    levels = {} if rate is None else dict(_levels(both, rate))
    return Gaming(
        task=both.proxy.task,
        proxy=both.proxy.facts,
        truth=both.truth.facts,
        benchmark=benchmark,
        points=tuple(points),
        ends={method: both.proxy.steps(method)[-1] for method in both.proxy.methods},
        levels=decided({key: _compared(both, key, one) for key, one in levels.items()}),
        contrasts=decided(dict(_contrasts(both, levels, baseline))),
    )


def _benchmark(both: _Sides) -> tuple[Benchmark | None, PickingRate | None]:
    """Both None where no prompt has two images with both scores, or choosing gains nothing."""
    [base] = both.values(both.base)
    scored = both.prompts[~np.isnan(base[0])]
    sizes = np.bincount(scored, minlength=int(both.prompts.max()) + 1)
    if not (sizes > 1).any():
        return None, None
    counts = tuple(range(2, int(sizes[sizes > 1].min()) + 1))
    terms = [picking_gains(base[0], base[1], both.prompts, count) for count in counts]
    rate = picking_rate(*terms[-1], both.prompts, sizes.size)
    if rate is None:
        return None, None
    means = [[both.table(values).mean() for values in pair] for pair in terms]
    benchmark = Benchmark(
        counts=counts,
        proxy_gains=tuple(mean[0] for mean in means),
        true_gains=tuple(mean[1] for mean in means),
        # Of images: the term of its prompt.
        rate=both.interval(rate.rate + rate.influence[both.prompts]),
    )
    return benchmark, rate


def _points(both: _Sides, rate: PickingRate | None) -> Iterator[GamingPoint]:
    for method in both.proxy.methods:
        for step in both.proxy.steps(method):
            yield from _point(both, rate, (method, step), both.base)
        for since in _first_stage_end(both, method):
            yield from _point(both, rate, (method, both.proxy.steps(method)[-1]), since)


def _first_stage_end(both: _Sides, method: str) -> list[At]:
    """Where a later stage started; empty of a method that starts from the base."""
    earlier = first_stage(method)
    return [(earlier, step) for step in both.proxy.steps(earlier)[-1:]]


def _point(both: _Sides, rate: PickingRate | None, at: At, since: At) -> Iterator[GamingPoint]:
    gains = both.gains(at, since)
    if not gains:
        return
    first, second = (np.stack([pair[side] for pair in gains.values()]) for side in (0, 1))
    shortfall = None if rate is None else rate.shortfall(first, second, both.prompts)
    yield GamingPoint(
        method=at[0],
        step=at[1],
        since=since[0],
        proxy_gain=both.interval(first),
        true_gain=both.interval(second),
        shortfall=None if shortfall is None else both.interval(shortfall),
        correlation=_correlation(both, at),
    )


def _correlation(both: _Sides, at: At) -> Interval | None:
    terms = [correlation_terms(pair[0], pair[1], both.prompts) for pair in both.values(at)]
    rows = [one for one in terms if one is not None]
    # A mean over some of the seeds would pass for one over all.
    if len(rows) < len(terms):
        return None
    return both.interval(np.stack(rows)).within((-1.0, 1.0))


def _levels(
    both: _Sides, rate: PickingRate
) -> Iterator[tuple[tuple[str, str], dict[int, FloatArray]]]:
    """Terms of every last shortfall, (N,) by seed, by method and what it is since."""
    for method in both.proxy.methods:
        if method == BASE:
            continue
        last = method, both.proxy.steps(method)[-1]
        for since in (both.base, *_first_stage_end(both, method)):
            gains = both.gains(last, since)
            if gains:
                yield (
                    (method, since[0]),
                    {
                        seed: rate.shortfall(pair[:1], pair[1:], both.prompts)[0]
                        for seed, pair in gains.items()
                    },
                )


def _contrasts(
    both: _Sides, levels: Mapping[tuple[str, str], Mapping[int, FloatArray]], baseline: str
) -> Iterator[tuple[tuple[str, str], Comparison]]:
    """Shortfalls minus the baseline's of the same stage, on the seeds that both have."""
    for (method, since), own in levels.items():
        # From its start on, each: a second stage is held against the baseline's second stage.
        start = BASE if since == BASE else first_stage(baseline)
        other = levels.get((baseline, start))
        # Of a method and its first stage the contrast is the shortfall since that, tested already.
        is_stage = baseline == first_stage(method) or method == first_stage(baseline)
        if method == baseline or is_stage or other is None:
            continue
        shared = {seed: own[seed] - other[seed] for seed in own if seed in other}
        # Two that failed on other images each have, in some seed, no image to be compared on.
        if shared and not any(np.isnan(terms).all() for terms in shared.values()):
            yield (method, since), _compared(both, (method, baseline), shared)


def _compared(
    both: _Sides,
    names: tuple[str, str],
    terms: Mapping[int, FloatArray],
) -> Comparison:
    facts = both.proxy.facts
    return compare_scores(
        list(terms.values()),
        both.prompts,
        None,
        names=names,
        facts=MetricFacts(
            name=f"{facts.name}_shortfall",
            title=f"shortfall of {facts.title}",
            unit="standard deviations of the base's images",
            decimals=3,
            value_range=(-math.inf, math.inf),
            higher_is_better=False,
            is_macro_mean=False,
            is_oracle=False,
        ),
        seeds=tuple(terms),
    )
