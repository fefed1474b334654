"""Families of comparisons without any true difference, of the shape of real scores.

    PYTHONPATH=. python -m tests.stats.simulated

prints the table of docs/statistics.md, in some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from soarbench.report.numbers.panels import Panel, build_panels
from soarbench.report.source import grid_cells
from soarbench.stats.clusters import ClusteredScores, cluster
from soarbench.stats.intervals import ALPHA, Spread, spread
from soarbench.stats.power import (
    Design,
    VarianceComponents,
    detectable_difference,
    variance_components,
)
from soarbench.stats.significance import holm, paired_permutation_test, paired_test

RESULTS = Path(__file__).parents[2] / "results/lab/standard"
GRIDS = ("reward_specific", "main_table")
#: Methods that share a baseline, as in the laboratory's tables.
NUM_METHODS = 3
#: Of each prompt; also as there.
NUM_IMAGES = 2


class Shape(NamedTuple):
    """Components of one comparison of the committed results, by a word for it."""

    grid: str
    task: str
    evaluator: str
    method: str


SHAPES = {
    "CLIPScore": Shape("reward_specific", "alignment", "clipscore", "soar"),
    "aesthetic": Shape("reward_specific", "aesthetic", "aesthetic", "flow_grpo"),
    "oracle": Shape("reward_specific", "aesthetic", "oracle_aesthetic", "flow_grpo"),
}


def panels(grid: str) -> dict[tuple[str, str], Panel]:
    """Committed scores by (task, evaluator)."""
    source = grid_cells([f"grid={grid}", f"output_dir={RESULTS}"])
    return build_panels(source.cells)[0]


def components(shape: Shape) -> VarianceComponents:
    """Of the differences to SFT at the last step."""
    panel = panels(shape.grid)[shape.task, shape.evaluator]
    ends = [(name, panel.steps(name)[-1]) for name in (shape.method, "sft")]
    pairs = panel.pairs(*ends).values()
    return variance_components([a - b for a, b in pairs], panel.prompts, panel.strata)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What is drawn: so many families, of ``NUM_METHODS`` methods against one baseline."""

    num_families: int
    num_prompts: int
    num_seeds: int
    is_heavy: bool = False


def differences(truth: VarianceComponents, size: Simulation, rng: np.random.Generator):
    """Prompts' means of the methods less the baseline's; (families, methods, S, P)."""

    def noise(*shape):
        # Student's t of 3 degrees of freedom, scaled to variance 1.
        return (
            rng.standard_t(3, shape) / np.sqrt(3) if size.is_heavy else rng.standard_normal(shape)
        )

    n, methods = size.num_families, NUM_METHODS + 1
    s, p, i = size.num_seeds, size.num_prompts, NUM_IMAGES
    # A difference of two has twice the variance of each.
    sd = {name: np.sqrt((value or 0) / 2) for name, value in vars(truth).items()}
    prompts = (
        rng.exponential(size=(n, methods, 1, p)) - 1 if size.is_heavy else noise(n, methods, 1, p)
    )
    scores = sd["seed"] * rng.standard_normal((n, methods, s, 1)) + sd["prompt"] * prompts
    scores = scores + sd["prompt_seed"] * noise(n, methods, s, p)
    scores += sd["image"] * noise(n, methods, i, 1, p).mean(axis=2)
    scores += sd["image_seed"] * noise(n, methods, i, s, p).mean(axis=2)
    return scores[:, 1:] - scores[:, :1]


def binary_differences(
    rates: np.ndarray, seed_sd: float, size: Simulation, rng: np.random.Generator
):
    """The same of right-or-wrong verdicts whose prompts have these chances; probit effects."""
    n, methods, s, p = size.num_families, NUM_METHODS + 1, size.num_seeds, rates.size
    level = special.ndtri(np.clip(rates, 0.02, 0.98)) * np.sqrt(1 + 0.3**2 + seed_sd**2)
    level = level + seed_sd * rng.standard_normal((n, methods, s, 1))
    level += 0.3 * rng.standard_normal((n, methods, 1, p))
    means = rng.binomial(NUM_IMAGES, special.ndtr(level)) / NUM_IMAGES
    return means[:, 1:] - means[:, :1]


class Outcome(NamedTuple):
    """Shares of simulations.

    Attributes:
        covered: Intervals that hold the truth.
        family_error: Families with at least one false verdict.
        first: Families whose first method has a verdict.
    """

    covered: float
    family_error: float
    first: float


def outcome(table: np.ndarray, strata: np.ndarray | None = None, shift: float = 0.0) -> Outcome:
    """The verdict's rule on differences (families, methods, S, P), the first ones shifted."""
    table = table + shift * (np.arange(table.shape[1]) == 0)[:, None, None]
    n, methods, s, p = table.shape
    strata = np.zeros(p, dtype=np.intp) if strata is None else strata
    scores = [ClusteredScores(one, np.ones((s, p)), strata) for one in table.reshape(-1, s, p)]
    spreads = [spread(one) for one in scores]
    parts = ("seeds", "seed_freedom", "prompts", "prompt_freedom")
    joint = Spread(**{name: np.array([getattr(one, name) for one in spreads]) for name in parts})
    p_values = 2 * joint.tail(np.abs([one.mean() for one in scores]))
    covered = (p_values >= ALPHA).reshape(n, methods)
    # The larger one counts, and what is not below ALPHA anyhow need not be permuted.
    for i in np.flatnonzero(p_values < ALPHA):
        p_values[i] = max(p_values[i], paired_permutation_test(scores[i]))
    adjusted = [holm(np.minimum(row, 1.0)) for row in p_values.reshape(n, methods)]
    decided = np.array(adjusted) < ALPHA
    return Outcome(covered.mean(), decided.any(axis=1).mean(), decided[:, 0].mean())


def detectable(truth: VarianceComponents, size: Simulation) -> float:
    """What a report would say of the design."""
    design = Design(
        num_prompts=size.num_prompts, num_images=NUM_IMAGES, num_seeds=size.num_seeds,
        num_comparisons=NUM_METHODS,
    )  # fmt: skip
    return detectable_difference(truth, design)


def same_against_same(num_seeds: int) -> Iterator[bool]:
    """Whether a family of real scores has a verdict: seeds of a method against others of it.

    Families are all trained methods of a task, by its deciding metric.
    """
    for grid in GRIDS:
        cells = grid_cells([f"grid={grid}", f"output_dir={RESULTS}"]).cells
        finals = {cell.task: cell.final_metric for cell in cells if not cell.is_base}
        stored = panels(grid)
        for task, metric in finals.items():
            yield from _families(stored[task, str(metric)], num_seeds)


def _families(panel: Panel, num_seeds: int) -> Iterator[bool]:
    scores = {
        method: {run.seed: panel.values[run] for run in panel.runs(method, panel.steps(method)[-1])}
        for method in panel.methods
        if method != "base"
    }
    seeds = sorted(set.intersection(*(set(one) for one in scores.values())))
    for first in combinations(seeds, num_seeds):
        for second in combinations([seed for seed in seeds if seed > first[0]], num_seeds):
            if set(first) & set(second):
                continue
            p_values = [
                paired_test(
                    cluster(
                        [own[a] - own[b] for a, b in zip(first, second, strict=True)],
                        panel.prompts,
                        strata=panel.strata,
                    )
                )
                for own in scores.values()
            ]
            yield bool((holm(p_values) < ALPHA).any())


def main() -> None:
    """Print the table of docs/statistics.md, a row a shape, tails and number of prompts."""
    for name, shape in SHAPES.items():
        truth = components(shape)
        for is_heavy in (False, True):
            for num_prompts in (10, 50, 200):
                _print_row(name, truth, num_prompts, is_heavy)


def _print_row(name: str, truth: VarianceComponents, num_prompts: int, is_heavy: bool) -> None:
    nulls, powers = [], []
    for num_seeds in (2, 3, 5):
        size = Simulation(
            num_families=1000, num_prompts=num_prompts, num_seeds=num_seeds, is_heavy=is_heavy
        )
        table = differences(truth, size, np.random.default_rng([num_prompts, num_seeds]))
        nulls.append(outcome(table))
        powers.append(outcome(table, shift=detectable(truth, size)).first)
    row = [
        f"{name}, {'heavy' if is_heavy else 'normal'}", str(num_prompts),
        *(f"{null.family_error:.3f}" for null in nulls),
        *(f"{null.covered:.3f}" for null in nulls),
        *(f"{power:.2f}" for power in powers),
    ]  # fmt: skip
    sys.stdout.write(f"| {' | '.join(row)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
