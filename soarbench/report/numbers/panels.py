"""Scores side by side: the same prompts and images under every method, seed and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from soarbench.common.errors import StoreError
from soarbench.report.numbers.names import BASE, ordered_methods
from soarbench.stats.clusters import ClusteredScores, FloatArray, IntArray, cluster
from soarbench.store.cells import Cell, Hole
from soarbench.store.facts import JUDGE, MetricFacts, metric_facts
from soarbench.store.scores import ScoreSet

T = TypeVar("T")
#: A method and one of its steps.
At = tuple[str, int]
Selection = list[tuple[Cell, list[ScoreSet]]]


class Run(NamedTuple):
    """Whose images: of a method, trained with a seed, after some steps."""

    method: str
    seed: int
    step: int


def paired(first: Mapping[int | None, T], second: Mapping[int | None, T]) -> dict[int, tuple[T, T]]:
    """Both sides by the training seeds that they share, ascending.

    What was measured once, under None, stands beside every seed of the other; two such are seed 0.
    """
    # Only seeds that both have: the same seed means the same order of data and the same noise.
    seeds: list[int | None] = [*sorted(seed for seed in {*first, *second} if seed is not None)]
    pairs = {}
    for seed in seeds or [None]:
        one, other = (side.get(seed, side.get(None)) for side in (first, second))
        if one is not None and other is not None:
            pairs[seed or 0] = (one, other)
    return pairs


@dataclass(frozen=True, kw_only=True)
class Panel:
    """All scores of one evaluator in one task.

    Attributes:
        facts: About the evaluator's number.
        suite: Prompts that it judged.
        fingerprint: Of the protocol, the same for all.
        prompts: Prompt of each image; (N,).
        images: Image index of each; (N,).
        strata: Stratum of each image's prompt where the metric is a macro mean; (N,), else None.
        values: Scores by run; (N,) each, nan where a measurement failed.
        reasons: Why measurements failed, by run: reason to how many.
    """

    task: str
    evaluator: str
    facts: MetricFacts
    suite: str
    fingerprint: str
    prompts: np.ndarray
    images: IntArray
    strata: np.ndarray | None
    values: Mapping[Run, FloatArray]
    reasons: Mapping[Run, Mapping[str, int]]

    @property
    def methods(self) -> list[str]:
        """Methods with scores, the base first."""
        return ordered_methods({run.method for run in self.values})

    def steps(self, method: str) -> list[int]:
        """Steps at which a method was judged, ascending."""
        return sorted({run.step for run in self.values if run.method == method})

    def runs(self, method: str, step: int) -> list[Run]:
        """One a training seed, ascending."""
        return sorted(run for run in self.values if (run.method, run.step) == (method, step))

    def scores(self, method: str, step: int) -> ClusteredScores:
        """One method's scores at a step, over all its seeds; ``ValueError`` as ``cluster``."""
        rows = [self.values[run] for run in self.runs(method, step)]
        return cluster(rows, self.prompts, strata=self.strata)

    def scored_prompts(self, method: str, step: int) -> frozenset[str]:
        """Prompts of which some image has a score."""
        rows = [self.values[run] for run in self.runs(method, step)]
        return frozenset(self.prompts[~np.isnan(rows).all(axis=0)].tolist())

    def pairs(self, first: At, second: At) -> dict[int, tuple[FloatArray, FloatArray]]:
        """Scores of two methods on the same images, (N,) each, by the seeds that they share."""
        # The base was never trained: its one evaluation stands beside every seed of the other.
        sides: list[dict[int | None, FloatArray]] = [
            {
                None if method == BASE else run.seed: self.values[run]
                for run in self.runs(method, step)
            }
            for method, step in (first, second)
        ]
        return paired(sides[0], sides[1])

    def differences(self, first: At, second: At) -> ClusteredScores:
        """Paired differences of two methods; ``ValueError``: no shared seed, or as ``cluster``."""
        rows = [one - other for one, other in self.pairs(first, second).values()]
        if not rows:
            raise ValueError(f"{first[0]} and {second[0]} share no finished training seed")
        # A nan on either side makes the difference nan, which leaves the image out.
        return cluster(rows, self.prompts, strata=self.strata)


def build_panels(cells: Sequence[Cell]) -> tuple[dict[tuple[str, str], Panel], list[Hole]]:
    """Put the scores of finished cells side by side.

    Returns:
        Panels by (task, evaluator), and a hole for every cell and evaluator whose scores do not
        cover exactly the images that the others cover, or not the steps that its config plans.

    Raises:
        StoreError: Scores of unlike fingerprints or suites would stand side by side, or as
            ``Cell.scores``.
    """
    # The base last: only the others say which suites a task has.
    cells = sorted(cells, key=lambda cell: cell.is_base)
    tasks = {cell.task: cell.metrics for cell in cells if not cell.is_base}
    # Cells judged on the same images share their labels: a thousand cells fit in memory.
    pool: dict[bytes, np.ndarray] = {}
    stored = {cell.cell_id: cell.scores(pool) for cell in cells}
    panels, holes = {}, []
    for task, evaluators in tasks.items():
        members = [cell for cell in cells if cell.task == task or cell.is_base]
        for evaluator in evaluators:
            panel, missing = _panel(task, evaluator, _select(members, stored, evaluator))
            holes += missing
            if panel is not None:
                panels[task, evaluator] = panel
    return panels, holes


def _select(
    cells: Sequence[Cell], stored: Mapping[str, Sequence[ScoreSet]], evaluator: str
) -> Selection:
    """Each cell's scores of one evaluator; of the base only those on the suite of the others."""
    selection: Selection = []
    suites: set[str] = set()
    for cell in cells:
        sets = [one for one in stored[cell.cell_id] if one.evaluator == evaluator]
        if cell.is_base:
            # The base is judged on the suites of all tasks, a task's methods on their own.
            sets = [one for one in sets if one.suite in suites]
        else:
            suites |= {one.suite for one in sets}
        selection.append((cell, sets))
    if len(suites) > 1:
        raise StoreError(
            f"{evaluator} judged different suites in task {cells[0].task!r}: "
            f"{', '.join(sorted(suites))}; a table needs one"
        )
    return selection


def _panel(task: str, evaluator: str, selection: Selection) -> tuple[Panel | None, list[Hole]]:
    def hole(cell: Cell, reason: str) -> Hole:
        return Hole(
            cell_id=cell.cell_id,
            task=cell.task,
            method=cell.method,
            seed=cell.seed,
            evaluator=evaluator,
            reason=reason,
        )

    scored = [(cell, one) for cell, sets in selection for one in sets]
    if not scored:
        return None, [hole(cell, "no scores") for cell, _ in selection]
    _refuse_unlike(task, evaluator, scored)
    # A set that lost images is the smaller one; the largest shows what was planned.
    planned = max((one for _, one in scored), key=lambda one: one.values.size)
    facts = _facts(evaluator, planned.suite, [cell for cell, _ in scored])
    values, reasons, holes = {}, {}, []
    for cell, sets in selection:
        gap = _gap(cell, sets, planned)
        # Incomplete scores are left out whole: a mean over other images is another number.
        if gap is not None:
            holes.append(hole(cell, gap))
            continue
        for one in sets:
            run = Run(cell.method, cell.seed, one.step)
            values[run], reasons[run] = one.values, one.reasons
    panel = Panel(
        task=task,
        evaluator=evaluator,
        facts=facts,
        suite=planned.suite,
        fingerprint=next(
            (one.fingerprint for cell, one in scored if not cell.is_evaluated_only),
            planned.fingerprint,
        ),
        prompts=planned.prompts,
        images=planned.images,
        strata=_strata(evaluator, planned, scored) if facts.is_macro_mean else None,
        values=values,
        reasons=reasons,
    )
    return panel, holes


def _facts(evaluator: str, suite: str, cells: Sequence[Cell]) -> MetricFacts:
    """What the first cell that kept its protocol says; ``StoreError`` where none did."""
    # The same fingerprint means the same judge, so that any of them will do.
    protocols = (cell.protocols().get((suite, evaluator), {}) for cell in cells)
    stated = next((protocol for protocol in protocols if JUDGE in protocol), {})
    return metric_facts(evaluator, stated, cells[0].cell_id)


def _refuse_unlike(task: str, evaluator: str, scored: Sequence[tuple[Cell, ScoreSet]]) -> None:
    owners: dict[str, str] = {}
    for cell, one in scored:
        # Of published weights ``protocols.refuse_unlike`` knows what may differ.
        if not cell.is_evaluated_only:
            owners.setdefault(one.fingerprint, cell.cell_id)
    if len(owners) > 1:
        places = "; ".join(f"{digest} in {cell_id}" for digest, cell_id in owners.items())
        raise StoreError(
            f"{evaluator} of task {task!r} was measured under {len(owners)} protocols, whose "
            f"numbers do not compare (fingerprints: {places}); move the older ones, in "
            "OUTPUT_DIR/scores, away and give the command of the run again"
        )


def _gap(cell: Cell, sets: Sequence[ScoreSet], planned: ScoreSet) -> str | None:
    """What a cell's scores lack, in words; None when they cover exactly what was planned."""
    lacking = sorted(set(cell.steps) - {one.step for one in sets})
    if lacking:
        return f"no scores at step {', '.join(map(str, lacking))}"
    for one in sets:
        if one.values.size != planned.values.size:
            return f"scored {one.values.size} of {planned.values.size} images at step {one.step}"
        if (one.images != planned.images).any() or (one.prompts != planned.prompts).any():
            return f"scored other images at step {one.step} than the other cells"
    return None


def _strata(
    evaluator: str, planned: ScoreSet, scored: Sequence[tuple[Cell, ScoreSet]]
) -> np.ndarray:
    """The ``tag`` of each image's prompt; (N,)."""
    scored_prompts = {str(name) for _, one in scored for name in one.prompts[~np.isnan(one.values)]}
    tags: dict[str, str] = {}
    # All cells know the tags of all prompts, but older ones not of those that failed: few are read.
    for cell in {cell.cell_id: cell for cell, _ in scored}.values():
        if set(planned.prompts.tolist()) <= tags.keys():
            break
        tags = cell.tags(evaluator) | tags
    lacking = scored_prompts - tags.keys()
    if lacking:
        raise StoreError(
            f"{evaluator}: the details of {len(lacking)} prompts, {min(lacking)!r} among them, "
            "name no 'tag', so there are no task means to average; score the grid again"
        )
    return strata_of(planned.prompts, tags)


def strata_of(prompts: np.ndarray, tags: Mapping[str, str]) -> np.ndarray:
    """The tag of each image's prompt; (N,)."""
    # A prompt that failed everywhere has no details, and no weight in any stratum.
    anywhere = next(iter(tags.values()), "")
    return np.array([tags.get(prompt, anywhere) for prompt in prompts.tolist()])
