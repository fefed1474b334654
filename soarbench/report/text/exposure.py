"""Tables about exposure bias, and what it costs in pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from soarbench.report.numbers.exposure import MEASURES, ExposurePoint
from soarbench.report.numbers.names import (
    BASE,
    METHOD_TITLES,
    Titles,
    distinct_titles,
    method_title,
    ordered_methods,
)
from soarbench.report.numbers.robustness import RobustnessPoint
from soarbench.report.text.frames import NOTHING
from soarbench.store.facts import MetricFacts

_EXPOSURE_NOTE = (
    "Less is better. Read the error off the path beside that on it, and what is left of a kick "
    "beside the diversity of images: a model that looks at its state too little has less of both. "
    "The base's value and each method's change from it, over images (in the laboratory held-out "
    "ones, elsewhere rows that were trained on) and training seeds; then the difference to "
    "{baseline}, p-values corrected for the methods, levels and measures of this table."
)
ROBUSTNESS_NOTE = (
    "Sampler steps, and fresh noise in the states and another guidance where it says so. After a "
    "score: by how much the difference to {baseline} is another than by the usual sampler, on the "
    "same images and seeds; p-values of the deciding metric, corrected for its methods and "
    "samplers; others decide nothing."
)


def exposure_note(points: Sequence[ExposurePoint], baseline: str) -> str:
    """How to read the table of a task; ``baseline`` as people call it."""
    note = _EXPOSURE_NOTE.format(baseline=baseline)
    if any(point.num_unscored for point in points):
        note += " * leaves out values that are not finite."
    return note


def exposure_texts(points: Sequence[ExposurePoint], titles: Titles = METHOD_TITLES) -> pd.DataFrame:
    """A row a measure and level, of one task: the base's value, and a column a method."""
    cells = {
        (f"{MEASURES[point.measure].title}, sigma {point.level:g}", point.method): _exposure(point)
        for point in points
    }
    return _wide("Measure", cells, titles)


def robustness_texts(
    points: Sequence[RobustnessPoint], facts: Mapping[str, MetricFacts], titles: Titles
) -> pd.DataFrame:
    """A row a metric and sampler, of one task, and a column a method."""
    cells, metrics = {}, distinct_titles(facts)
    usual_guidance = {point.guidance_scale for point in points if point.is_usual}
    for point in points:
        what = f", noise {point.state_noise:g}" if point.state_noise else ""
        if point.guidance_scale not in usual_guidance:
            what += f", guidance {point.guidance_scale:g}"
        usual = " (usual)" if point.is_usual else ""
        sampler = f"{point.num_inference_steps} steps{what}{usual}"
        name = f"{metrics[point.metric]}, {sampler}"
        cells[name, point.method] = _robustness(point, facts[point.metric].decimals)
    return _wide("Score", cells, titles)


def _wide(head: str, cells: Mapping[tuple[str, str], str], titles: Titles) -> pd.DataFrame:
    """Texts by row and method as a table, the methods in their order."""
    methods = ordered_methods({method for _, method in cells})
    lines = [
        [name, *(cells.get((name, method), NOTHING) for method in methods)]
        for name in dict.fromkeys(name for name, _ in cells)
    ]
    heads = [head, *(method_title(method, titles) for method in methods)]
    return pd.DataFrame(lines, columns=heads, dtype=object)


def _exposure(point: ExposurePoint) -> str:
    """The base's value; of a method its change from it, and its difference to the baseline."""
    decimals = MEASURES[point.measure].decimals
    mark = "*" if point.num_unscored else ""
    if point.method == BASE:
        return _text(point.value, point.low, point.high, f".{decimals}f") + mark
    change = _text(point.change, point.change_low, point.change_high, f"+.{decimals}f") + mark
    if point.verdict is None:
        return change
    ends = point.difference_low, point.difference_high
    return f"{change}<br>{_text(point.difference, *ends, f'+.{decimals}f')}: {point.verdict}"


def _robustness(point: RobustnessPoint, decimals: int) -> str:
    """A score, and the change of its lead on the baseline."""
    score = _text(point.value, point.low, point.high, f".{decimals}f")
    if point.verdict is None:
        return score
    ends = point.interaction_low, point.interaction_high
    return f"{score}<br>{_text(point.interaction, *ends, f'+.{decimals}f')}: {point.verdict}"


def _text(value: float, low: float, high: float, form: str) -> str:
    if math.isnan(value):
        return NOTHING
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
