"""Proxy against oracle as data: how much of what a learned score gained is true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from soarbench.report.numbers.estimates import labelled_rng
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel, Run
from soarbench.stats import Interval, cluster, mean_interval
from soarbench.stats.clusters import FloatArray


@dataclass(frozen=True, kw_only=True)
class GamingPoint:
    """What a method gained on a learned score and on its oracle, in units of the base's spread.

    Attributes:
        task: Name of the task.
        proxy: Evaluator that learned.
        oracle: Evaluator that knows.
        method: Name.
        step: Optimiser steps.
        proxy_gain: Mean gain over the base, in standard deviations of the base's scores; better is
            more, also where a lower score is better.
        proxy_low: Lower end of its 95 % interval, paired by image.
        proxy_high: Upper end.
        oracle_gain: The same of the oracle.
        oracle_low: Lower end.
        oracle_high: Upper end.
        gap: ``proxy_gain - oracle_gain``: what was gained on the score alone.
        gap_low: Lower end.
        gap_high: Upper end.
        num_prompts: In it.
        num_seeds: Training seeds.
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


def gaming_points(panels: Mapping[tuple[str, str], Panel]) -> list[GamingPoint]:
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
        and proxy.prompts.shape == oracle.prompts.shape
        and bool((proxy.prompts == oracle.prompts).all())
        and bool((proxy.images == oracle.images).all())
    )


def _points(proxy: Panel, oracle: Panel) -> Iterator[GamingPoint]:
    # In the base's spread both gains have one unit, whatever the scales of score and oracle.
    spreads = [_base_spread(panel) for panel in (proxy, oracle)]
    if not all(spreads):
        return
    for method in proxy.methods:
        for step in proxy.steps(method):
            if method == BASE or step not in oracle.steps(method):
                continue
            gains = [_gains(panel, method, step) for panel in (proxy, oracle)]
            # A gap needs both judges on the same images of the same training.
            seeds = sorted(set(gains[0]) & set(gains[1]))
            if not seeds:
                continue
            first, second = (
                np.concatenate([gain[seed] for seed in seeds]) / spread
                for gain, spread in zip(gains, spreads, strict=True)
            )
            yield _point(proxy, oracle, method, step, seeds, first, second)


def _base_spread(panel: Panel) -> float:
    """Standard deviation of the base's scores; 0 without a base, or where all are alike."""
    # The base is not trained and has one evaluation, whatever its seed is called.
    runs = [run for run in panel.values if run.method == BASE]
    if not runs or np.isnan(panel.values[runs[0]]).all():
        return 0.0
    return float(np.nanstd(panel.values[runs[0]]))


def _gains(panel: Panel, method: str, step: int) -> dict[int, FloatArray]:
    """How much better than the base on every image, by training seed; (N,) each."""
    base = next(values for run, values in panel.values.items() if run.method == BASE)
    return {
        seed: panel.facts.sign * (panel.values[Run(method, seed, step)] - base)
        for seed in panel.seeds(method, step)
    }


def _point(
    proxy: Panel,
    oracle: Panel,
    method: str,
    step: int,
    seeds: list[int],
    first: FloatArray,
    second: FloatArray,
) -> GamingPoint:
    # Numbers sort faster than names, which matters with hundreds of seeds.
    prompts = np.tile(np.unique(proxy.prompts, return_inverse=True)[1], len(seeds))

    def interval(values: FloatArray, name: str) -> Interval:
        table = cluster(values, prompts, seeds=np.repeat(seeds, proxy.prompts.size))
        rng = labelled_rng(proxy.task, proxy.evaluator, "gaming", name, method, step)
        return mean_interval(table, rng)

    # An image without one of its two scores would shift the gap.
    hidden = np.where(np.isnan(first + second), np.nan, 0.0)
    gained, true, gap = (
        interval(values + hidden, name)
        for values, name in ((first, "proxy"), (second, "oracle"), (first - second, "gap"))
    )
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
