"""Notes, titles and findings that stand around the tables, whatever the format."""

from __future__ import annotations

from collections.abc import Sequence

from soarbench.config.stages import first_stage
from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.curves import COUNTERS
from soarbench.report.numbers.thresholds import Crossing

COUNTER_TITLES = {name: name.replace("_", " ") for name in COUNTERS}
_NOT_MEASURED = (
    "lies between the base and the first snapshot. Nothing was measured there and scores do not "
    "rise in a straight line, so nothing is interpolated; more budget.num_snapshots would measure "
    "it."
)
_THRESHOLD_NOTE = (
    "The first crossing, linear between snapshots. The interval resamples prompts and takes the "
    "training seeds as they are; 'never' is a resample that does not reach the value."
)


def amount_text(matched: MatchedTable) -> str:
    """How much of what is equal."""
    return f"{matched.level:,.0f} {COUNTER_TITLES[matched.counter]}"


def level_text(matched: MatchedTable) -> str:
    """What is equal, and whose whole training that is."""
    spenders = " and ".join(matched.table.title(method) for method in matched.methods)
    return f"{amount_text(matched)}: all that {spenders} spent"


def matched_note(matched: Sequence[MatchedTable]) -> str:
    """How to read tables at equal cost."""
    reasons = ["never spent as much"]
    if any(one.early for one in matched):
        reasons.append("spent it before its first snapshot")
    if any(first_stage(row.method) for one in matched for row in one.table.rows):
        reasons.append("was still in its first stage")
    return (
        "Every method at the same cost. Between two snapshots an image's score is taken as linear "
        f"in the cost; a dash marks a method that {', or '.join(reasons)}."
    )


def early_note(matched: MatchedTable) -> str:
    """Why methods have a dash though they spent as much; empty where none has."""
    names = " and ".join(matched.table.title(method) for method in matched.early)
    return f"{names}: a dash, since this cost {_NOT_MEASURED}" if names else ""


def threshold_note(crossings: Sequence[Crossing]) -> str:
    """How to read what a value costs."""
    is_early = any(one.is_early for one in crossings)
    return f"{_THRESHOLD_NOTE} A dash for steps {_NOT_MEASURED}" if is_early else _THRESHOLD_NOTE


def threshold_title(one: Crossing) -> str:
    """What is to be reached, in words."""
    return f"To reach {one.facts.title} {one.threshold:.{one.facts.decimals}f} ({one.source})"
