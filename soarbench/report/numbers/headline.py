"""How sure the first number is that ``score`` and ``evaluate`` print of a judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from soarbench.common.errors import UserError
from soarbench.report.numbers.estimates import possible
from soarbench.report.numbers.measured import Measured, of_judge
from soarbench.report.numbers.panels import strata_of
from soarbench.stats.clusters import cluster
from soarbench.stats.intervals import mean_interval

#: What such an interval is of, and what it leaves out.
COVERS = (
    "other prompts of the kind and other images of them; not another training, nor what the judge "
    "itself gets wrong"
)


def headline(output: Path, name: str, summary: Mapping[str, object]) -> dict[str, object]:
    """The 95 % interval of a judge's first number, as JSON values; ``problem`` where it has none.

    Prompts are what is drawn at random, and the images of one count together.

    Args:
        output: Folder of the command.
        name: Of the judge.
        summary: Of ``jobs.score_images.summary_of``.
    """
    numbers = summary["numbers"]
    assert isinstance(numbers, Mapping)
    measure, value = next(iter(numbers.items()))
    try:
        ends = _interval(of_judge(output, name, summary), value)
    # One judge that failed on every image must not hide what the others say.
    except (UserError, ValueError) as error:
        return {"measure": measure, "problem": str(error)}
    return {"measure": measure, **ends, "covers": COVERS}


def _interval(one: Measured, value: object) -> dict[str, object]:
    """``ValueError`` says why there is none."""
    if np.isnan(one.scores.values).all():
        raise ValueError("no interval: no image has a score")
    prompts = one.scores.prompts
    strata = strata_of(prompts, one.tags) if one.facts.is_macro_mean else None
    scores = cluster(one.scores.values, prompts, strata=strata)
    if min(members.size for members in scores.members()) < 2:
        # GenEval of six prompts, one a task, said 0.333 [0.333, 0.333].
        where = "a task has one prompt alone" if scores.num_strata > 1 else "there is one prompt"
        raise ValueError(f"no interval: {where}")
    interval = mean_interval(scores)
    # A judge's own summary may begin with what is no mean over images.
    if not isinstance(value, float) or not math.isclose(interval.estimate, value, abs_tol=1e-9):
        raise ValueError("no interval: this is no mean over images")
    # Means of equal scores differ by a last bit.
    if interval.high - interval.low <= 1e-12 * abs(interval.estimate):
        raise ValueError("no interval: every prompt scored the same")
    shown = possible(interval, one.scores.values, one.facts)
    return {
        "low": shown.low, "high": shown.high, "level": shown.level,
        "num_prompts": shown.num_prompts,
    }  # fmt: skip
