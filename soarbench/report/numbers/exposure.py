"""Exposure bias as data: what ``soarbench.diagnostics.exposure`` measures, with tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.common.errors import StoreError
from soarbench.report.numbers.diagnostics import members, task_key
from soarbench.report.numbers.estimates import Comparison, compare_scores, decided
from soarbench.report.numbers.names import BASE, ordered_methods
from soarbench.report.numbers.panels import paired
from soarbench.stats.clusters import FloatArray, cluster
from soarbench.stats.intervals import Interval, mean_interval
from soarbench.stats.significance import Verdict
from soarbench.store.cells import Cell
from soarbench.store.facts import MetricFacts


def _facts(name: str, title: str, unit: str) -> MetricFacts:
    return MetricFacts(
        name=name, title=title, unit=unit, decimals=4, value_range=(-np.inf, np.inf),
        higher_is_better=False, is_macro_mean=False, is_oracle=False,
    )  # fmt: skip


#: The measures by name, in the order of tables.
MEASURES = {
    one.name: one
    for one in (
        _facts("on_path", "Error on the path", "squared error"),
        _facts("off_path", "More of it off the path", "squared error"),
        _facts("contraction_random", "Left of a random kick", "share of its RMS"),
        _facts("contraction_drift", "Left of its own drift", "share of its RMS"),
        _facts("own_states", "Own states, energy score", "RMS"),
    )
}
#: Measure, and its level, as asked for and of the sampler.
Place = tuple[str, float, float]
#: Values of the images, (N,), nan where not finite, by training seed; the base's under None.
BySeed = Mapping[int | None, FloatArray]


@dataclass(frozen=True, kw_only=True)
class ExposurePoint:
    """One measure of one method at one level, with 95 % intervals over images and seeds.

    Attributes:
        measure: Name in ``MEASURES``; less is better.
        level: Nominal noise level, 1 = noise.
        sigma: The sampler's level nearest to it.
        value: Mean over images; nan where a seed has none that is finite.
        change: To the base, on the same images and states; nan without it.
        difference: To the ``baseline``; nan of the base, and of what is compared with nothing.
        adjusted_p_value: Of the difference, after Holm's correction over methods, levels and
            measures.
        num_unscored: Values that are not finite, of all seeds, and are left out.
    """

    task: str
    measure: str
    level: float
    sigma: float
    method: str
    value: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float
    baseline: str
    difference: float
    difference_low: float
    difference_high: float
    adjusted_p_value: float | None
    verdict: Verdict | None
    num_images: int
    num_seeds: int
    num_unscored: int = 0


def exposure_points(cells: Sequence[Cell], task: str, baseline: str) -> list[ExposurePoint]:
    """Every measure of every method at every level; empty where nothing was measured.

    Raises:
        StoreError: A table is damaged, or cells trained or were measured unlike.
    """
    values = _values(cells, task)
    # One family: of five measures with one each, one in five tables would hold a false verdict.
    family = decided(
        {
            (method, str(place)): comparison
            for place, by_method in values.items()
            for method in by_method
            if (comparison := _compared(place[0], by_method, method, baseline)) is not None
        }
    )
    order = list(MEASURES)
    return [
        _point(task, place, by_method, method, family.get((method, str(place))))
        for place, by_method in sorted(values.items(), key=lambda one: order.index(one[0][0]))
        for method in ordered_methods(by_method)
    ]


def _values(cells: Sequence[Cell], task: str) -> dict[Place, dict[str, BySeed]]:
    """Values of every measure at every place, by method."""
    key = task_key(cells, task)
    values: dict[Place, dict[str, dict[int | None, FloatArray]]] = {}
    for cell in members(cells, task):
        table = cell.exposure(key)
        if table is None:
            continue
        # Images in one order in every table: differences are taken by position.
        frame = table.to_pandas().sort_values(["level", "row"], ascending=[False, True])
        frame = frame.astype({"value": np.float64})
        # A model that diverges has no number for some states: unscored, as images are.
        frame["value"] = frame["value"].where(np.isfinite(frame["value"]))
        seed = None if cell.is_base else cell.seed
        for place, rows in frame.groupby(["measure", "level", "sigma"], sort=False)["value"]:
            values.setdefault(place, {}).setdefault(cell.method, {})[seed] = rows.to_numpy()
    _refuse_unlike(values, task)
    return {place: dict(by_method) for place, by_method in values.items()}


def _refuse_unlike(values: Mapping[Place, Mapping[str, BySeed]], task: str) -> None:
    """Refuse other images, or other levels, which cannot be compared."""
    sizes = {rows.size for one in values.values() for own in one.values() for rows in own.values()}
    counts = {sum(len(own) for own in by_method.values()) for by_method in values.values()}
    if len(sizes) > 1 or len(counts) > 1:
        raise StoreError(
            f"cells of task {task!r} were measured by different versions or settings; move the "
            "folder probes of their output_dir away: python -m soarbench diagnose makes it again"
        )


def _compared(
    measure: str, by_method: Mapping[str, BySeed], method: str, baseline: str
) -> Comparison | None:
    """A trained method with the baseline; None where there is nothing to compare."""
    if method in (BASE, baseline) or baseline not in by_method:
        return None
    pairs = paired(by_method[method], by_method[baseline])
    if not pairs:
        return None
    differences = [one - other for one, other in pairs.values()]
    try:
        return compare_scores(
            differences,
            np.arange(differences[0].size),
            None,
            names=(method, baseline),
            facts=MEASURES[measure],
            seeds=tuple(pairs),
        )
    except ValueError:
        return None  # a seed without an image that both have a value of


def _interval(rows: FloatArray) -> Interval | None:
    """Of the mean over images and seeds; None where a seed has no value."""
    try:
        return mean_interval(cluster(rows, np.arange(rows.shape[1])))
    except ValueError:
        # One diverged model must not cost the report its other numbers.
        return None


def _ends(interval: Interval | None) -> tuple[float, float, float]:
    """Estimate, low and high; nan of none."""
    if interval is None:
        return (float("nan"),) * 3
    return interval.estimate, interval.low, interval.high


def _point(
    task: str,
    place: Place,
    by_method: Mapping[str, BySeed],
    method: str,
    comparison: Comparison | None,
) -> ExposurePoint:
    rows = np.stack(list(by_method[method].values()))
    mean, change = _interval(rows), None
    if BASE in by_method:
        # On the same images and states, so that what no model can know cancels.
        change = _interval(rows - by_method[BASE][None])
    value, value_low, value_high = _ends(mean)
    moved, moved_low, moved_high = _ends(change)
    lead, lead_low, lead_high = _ends(None if comparison is None else comparison.difference)
    return ExposurePoint(
        task=task,
        measure=place[0],
        level=place[1],
        sigma=place[2],
        method=method,
        value=value,
        low=value_low,
        high=value_high,
        change=moved,
        change_low=moved_low,
        change_high=moved_high,
        baseline="" if comparison is None else comparison.baseline,
        difference=lead,
        difference_low=lead_low,
        difference_high=lead_high,
        adjusted_p_value=None if comparison is None else comparison.adjusted_p_value,
        verdict=None if comparison is None else comparison.verdict,
        num_images=0 if mean is None else mean.num_prompts,
        num_seeds=len(rows),
        num_unscored=int(np.isnan(rows).sum()),
    )
