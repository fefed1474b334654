"""What samplers of other errors cost each method in pictures, as data."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from soarbench.common.errors import StoreError
from soarbench.report.numbers.diagnostics import members
from soarbench.report.numbers.estimates import Comparison, compare_scores, decided, estimate
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import Panel, build_panels
from soarbench.stats.intervals import Interval
from soarbench.stats.significance import Verdict
from soarbench.store.cells import Cell
from soarbench.store.scores import ScoreSet, score_sets, tags_of
from soarbench.store.tables import SAMPLER

#: The values of ``SAMPLER``.
Sampler = tuple[int, float, float]
#: One metric of a task by every sampler, the usual one first.
BySampler = Mapping[Sampler, Panel]


@dataclass(frozen=True, kw_only=True)
class RobustnessPoint:
    """One method's score by one sampler, with 95 % intervals over prompts and training seeds.

    Attributes:
        num_inference_steps: Of the sampler.
        state_noise: Fresh noise in its states; 0 of one without.
        guidance_scale: Its guidance; 1 of one without.
        is_usual: Whether it is the sampler that all other numbers are of.
        interaction: Method - ``baseline`` by this sampler, minus the same by the usual one; nan of
            the base, of the baseline, and of the usual sampler.
        adjusted_p_value: Of the interaction, after Holm's correction over methods and samplers;
            None of metrics that decide nothing.
        verdict: Whether the method gains or loses on the baseline by this sampler.
    """

    task: str
    metric: str
    num_inference_steps: int
    state_noise: float
    guidance_scale: float
    is_usual: bool
    method: str
    value: float
    low: float
    high: float
    baseline: str
    interaction: float
    interaction_low: float
    interaction_high: float
    adjusted_p_value: float | None
    verdict: Verdict | None
    num_prompts: int
    num_seeds: int


def robustness_points(cells: Sequence[Cell], task: str, baseline: str) -> list[RobustnessPoint]:
    """Every judged metric of a task by every sampler; empty where only the usual one was judged.

    Raises:
        StoreError: A table is damaged, or cells were drawn by unlike samplers.
    """
    tables = {
        cell.cell_id: (cell, table)
        for cell in members(cells, task)
        if (table := cell.robustness()) is not None
    }
    samplers = _samplers([table for _, table in tables.values()], task)
    drawn = {one: [_by(cell, table, one) for cell, table in tables.values()] for one in samplers}
    panels = {one: build_panels(own)[0] for one, own in drawn.items()}
    names = dict.fromkeys(name for own in panels.values() for name in own)
    deciding = next((cell.final_metric for cell, _ in tables.values() if cell.final_metric), None)
    return [
        point
        for name in names
        # A metric that failed everywhere by one sampler is compared by none.
        if all(name in own for own in panels.values())
        for point in _points(
            {one: own[name] for one, own in panels.items()}, baseline, name[1] == deciding
        )
    ]


def _samplers(tables: Sequence[pa.Table], task: str) -> list[Sampler]:
    """Those of all cells, the usual one first; ``StoreError`` where they are not alike."""
    of_cells = {
        tuple(dict.fromkeys(zip(*(table[name].to_pylist() for name in SAMPLER), strict=True)))
        for table in tables
    }
    if len(of_cells) > 1:
        raise StoreError(
            f"cells of task {task!r} were drawn by unlike samplers; run the grid again with one "
            "robustness.num_inference_steps, robustness.state_noise and robustness.guidance_scale"
        )
    return list(next(iter(of_cells), ()))


@dataclass(frozen=True, kw_only=True)
class _Drawn(Cell):
    """A cell with the scores of its last step by another sampler."""

    rows: pa.Table

    @override
    def scores(self, pool: dict[bytes, np.ndarray] | None = None) -> list[ScoreSet]:
        return score_sets(self.rows, self.cell_id, pool)

    @override
    def tags(self, judge: str) -> dict[str, str]:
        return tags_of(self.rows, judge)


def _by(cell: Cell, table: pa.Table, sampler: Sampler) -> _Drawn:
    equal = [pc.equal(table[name], value) for name, value in zip(SAMPLER, sampler, strict=True)]
    rows = table.filter(functools.reduce(pc.and_, equal))
    judges = list(dict.fromkeys(rows["evaluator"].to_pylist()))
    description = {**cell.description, "steps": [cell.steps[-1]], "metrics": judges}
    return _Drawn(**{**vars(cell), "description": description}, rows=rows)


def _points(panels: BySampler, baseline: str, is_deciding: bool) -> Iterator[RobustnessPoint]:
    """Of one metric, whose interactions are one family, where it decides anything."""
    usual = next(iter(panels))
    family = {
        (method, str(sampler)): comparison
        for sampler, panel in panels.items()
        for method in panel.methods
        if (comparison := _interaction(panels, usual, sampler, method, baseline)) is not None
    }
    if is_deciding:
        family = decided(family)
    for sampler, panel in sorted(panels.items(), key=lambda one: _place(one[0], usual)):
        for method in panel.methods:
            interval = estimate(panel, method, panel.steps(method)[-1]).interval
            if interval is not None:
                comparison = family.get((method, str(sampler)))
                yield _point(panel, sampler, method, interval, comparison, sampler == usual)


def _place(sampler: Sampler, usual: Sampler) -> tuple[bool, float, float, int]:
    """By number of steps, then with noise, then with other guidance."""
    steps, noise, guidance = sampler
    return guidance != usual[2], guidance, noise, steps


def _interaction(
    panels: BySampler, usual: Sampler, sampler: Sampler, method: str, baseline: str
) -> Comparison | None:
    """Difference to the baseline by a sampler minus that by the usual one, on the same images."""
    one, other = panels[sampler], panels[usual]
    if sampler == usual or method in (BASE, baseline):
        return None
    if not {method, baseline} <= {*one.methods} & {*other.methods}:
        return None
    pairs = [
        panel.pairs((method, panel.steps(method)[-1]), (baseline, panel.steps(baseline)[-1]))
        for panel in (one, other)
    ]
    seeds = [seed for seed in pairs[0] if seed in pairs[1]]
    rows = [np.subtract(*pairs[0][seed]) - np.subtract(*pairs[1][seed]) for seed in seeds]
    try:
        return compare_scores(
            rows,
            one.prompts,
            one.strata,
            names=(method, baseline),
            facts=one.facts,
            seeds=tuple(seeds),
        )
    except ValueError:
        return None  # no image was scored by both


def _point(
    panel: Panel,
    sampler: Sampler,
    method: str,
    interval: Interval,
    comparison: Comparison | None,
    is_usual: bool,
) -> RobustnessPoint:
    nothing = float("nan")
    difference = None if comparison is None else comparison.difference
    return RobustnessPoint(
        task=panel.task,
        metric=panel.evaluator,
        num_inference_steps=sampler[0],
        state_noise=sampler[1],
        guidance_scale=sampler[2],
        is_usual=is_usual,
        method=method,
        value=interval.estimate,
        low=interval.low,
        high=interval.high,
        baseline="" if comparison is None else comparison.baseline,
        interaction=nothing if difference is None else difference.estimate,
        interaction_low=nothing if difference is None else difference.low,
        interaction_high=nothing if difference is None else difference.high,
        adjusted_p_value=None if comparison is None else comparison.adjusted_p_value,
        verdict=None if comparison is None else comparison.verdict,
        num_prompts=interval.num_prompts,
        num_seeds=interval.num_seeds,
    )
