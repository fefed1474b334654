"""How unlike the images of a prompt are, method by method: values and paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from soarbench.report.numbers.diagnostics import DIVERSITY, QUANTITIES
from soarbench.report.numbers.estimates import Comparison, Estimate, compare, decided, estimate
from soarbench.report.numbers.names import Titles
from soarbench.report.numbers.panels import Panel, Run
from soarbench.store.facts import MetricFacts


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """The images of a task's prompts at the methods' last steps.

    Attributes:
        facts: About each measure.
        values: By method and measure.
        comparisons: With the baseline, paired by prompt and seed; those of the first measure are
            the family that is decided.
    """

    task: str
    baseline: str
    titles: Titles
    facts: Mapping[str, MetricFacts]
    values: Mapping[tuple[str, str], Estimate]
    comparisons: Mapping[tuple[str, str], Comparison]


def measure_diversity(
    task: str, statistics: pd.DataFrame, baseline: str, titles: Titles
) -> Diversity | None:
    """Estimate and compare every measure; None where no prompt has two images.

    ``statistics`` are ``diagnostics.image_statistics``.
    """
    panels = {name: panel for name in DIVERSITY if (panel := _panel(task, name, statistics))}
    if not panels:
        return None
    methods = next(iter(panels.values())).methods
    last = {
        (method, name): panel.steps(method)[-1]
        for method in methods
        for name, panel in panels.items()
        if panel.steps(method)
    }
    deciding = next(iter(panels))
    compared = {
        key: compare(panels[key[1]], (key[0], step), (baseline, last[baseline, key[1]]))
        for key, step in last.items()
        if key[0] != baseline and (baseline, key[1]) in last
    }
    comparisons = {key: one for key, one in compared.items() if one is not None}
    family = {key: one for key, one in comparisons.items() if key[1] == deciding}
    return Diversity(
        task=task,
        baseline=baseline,
        titles=titles,
        facts={name: panel.facts for name, panel in panels.items()},
        values={key: estimate(panels[key[1]], key[0], step) for key, step in last.items()},
        comparisons=comparisons | decided(family),
    )


def _panel(task: str, measure: str, statistics: pd.DataFrame) -> Panel | None:
    """One value a prompt, as if each had one image."""
    own = statistics[statistics["quantity"] == measure]
    if own.empty:
        return None
    labels = np.unique(own["label"].to_numpy(dtype=np.intp))
    values: dict[Run, np.ndarray] = {}
    for (method, seed, step), part in own.groupby(["method", "seed", "step"]):
        row = np.full(labels.size, np.nan)
        row[np.searchsorted(labels, part["label"].to_numpy(dtype=np.intp))] = part["value"]
        values[Run(str(method), int(seed), int(step))] = row
    title, unit = QUANTITIES[measure]
    return Panel(
        task=task,
        evaluator=measure,
        facts=MetricFacts(
            name=measure, title=title, unit=unit, decimals=3, value_range=(0.0, np.inf),
            higher_is_better=True, is_macro_mean=False, is_oracle=False,
        ),
        suite="",
        fingerprint="",
        prompts=labels,
        images=np.zeros_like(labels),
        strata=None,
        values=values,
        reasons={run: {} for run in values},
    )  # fmt: skip
