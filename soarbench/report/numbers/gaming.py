"""Proxy against oracle as data: how much of what a learned score gained is true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.tables import Panels
from soarbench.stats.clusters import FloatArray, cluster
from soarbench.stats.intervals import Interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class GamingPoint:
    """What a method gained on a learned score and on its oracle, with 95 % intervals.

    Attributes:
        proxy: Evaluator that learned.
        oracle: Evaluator that knows.
        proxy_gain: Mean gain over the base, in standard deviations of the base's scores; better is
            more, also where a lower score is better. Intervals are paired by image.
        gap: ``proxy_gain - oracle_gain``: what was gained on the score alone.
    """

    task: str
    proxy: str
    oracle: str
    method: str
    step: int
    proxy_gain: float
    proxy_low: float
    proxy_high: float
    oracle_gain: float
    oracle_low: float
    oracle_high: float
    gap: float
    gap_low: float
    gap_high: float
    num_prompts: int
    num_seeds: int


def gaming_points(panels: Panels) -> list[GamingPoint]:
    """Measure every learned score whose oracle judged the same images, at every step."""
    return [
        point
        for (task, evaluator), proxy in panels.items()
        for (of, _), oracle in panels.items()
        if of == task and evaluator in oracle.facts.oracle_of and _same_images(proxy, oracle)
        for point in _points(proxy, oracle)
    ]


def _same_images(proxy: Panel, oracle: Panel) -> bool:
    return (
        proxy.suite == oracle.suite
        and np.array_equal(proxy.prompts, oracle.prompts)
        and np.array_equal(proxy.images, oracle.images)
    )


def _points(proxy: Panel, oracle: Panel) -> Iterator[GamingPoint]:
    for method in proxy.methods:
        for step in proxy.steps(method):
            gains = [_gains(panel, method, step) for panel in (proxy, oracle)]
            # A gap needs both judges on the same images of the same training.
            seeds = [seed for seed in gains[0] if seed in gains[1]]
            if method != BASE and seeds:
                first, second = (np.stack([gain[seed] for seed in seeds]) for gain in gains)
                # Nothing that both scored in some seed is no gain; the table's gaps say so.
                if not np.isnan(first + second).all(axis=1).any():
                    yield _point(proxy, oracle, method, step, first, second)


def _gains(panel: Panel, method: str, step: int) -> dict[int, FloatArray]:
    """Gain over the base on every image, in its spread, by seed; empty without such a unit."""
    base = next((run for run in panel.values if run.method == BASE), None)
    if base is None or np.isnan(panel.values[base]).all():
        return {}
    # In the base's spread both gains have one unit, whatever the scales of score and oracle.
    spread = float(np.nanstd(panel.values[base]))
    if spread == 0:
        return {}
    pairs = panel.pairs((method, step), (BASE, base.step))
    return {
        seed: panel.facts.sign * (mine - untrained) / spread
        for seed, (mine, untrained) in pairs.items()
    }


def _point(
    proxy: Panel, oracle: Panel, method: str, step: int, first: FloatArray, second: FloatArray
) -> GamingPoint:
    """A point of two judges' gains; (S, N) each."""

    def interval(values: FloatArray) -> Interval:
        return mean_interval(cluster(values, proxy.prompts))

    # An image without one of its two scores would shift the gap.
    hidden = np.where(np.isnan(first + second), np.nan, 0.0)
    gained, true = interval(first + hidden), interval(second + hidden)
    gap = interval(first - second)
    return GamingPoint(
        task=proxy.task,
        proxy=proxy.evaluator,
        oracle=oracle.evaluator,
        method=method,
        step=step,
        proxy_gain=gained.estimate,
        proxy_low=gained.low,
        proxy_high=gained.high,
        oracle_gain=true.estimate,
        oracle_low=true.low,
        oracle_high=true.high,
        gap=gap.estimate,
        gap_low=gap.low,
        gap_high=gap.high,
        num_prompts=gap.num_prompts,
        num_seeds=gap.num_seeds,
    )
