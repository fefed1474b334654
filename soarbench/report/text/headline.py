"""What a task comes to, in one sentence, and the words of its forest plot."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from soarbench.report.numbers.estimates import Comparison
from soarbench.report.numbers.forest import ForestPart
from soarbench.report.numbers.tables import difference_text
from soarbench.report.text.frames import amount_text
from soarbench.stats import Verdict

_CHECKPOINT = "this checkpoint is "
_FOREST_COLUMNS = (
    "task", "metric", "counter", "level", "baseline", "method", "difference", "low", "high",
    "p_value", "adjusted_p_value", "verdict",
)  # fmt: skip


def headline(parts: Sequence[ForestPart]) -> str:
    """The parts of one task as a sentence: its last steps, and the least cost that is decided."""
    last = [part for part in parts if part.matched is None and part.comparisons]
    if not last:
        return "Nothing can be compared yet."
    clauses = [_clause(last[0])]
    costs = [part for part in parts if part.matched is not None]
    # The least cost: further up fewer methods ever got there.
    decided = next((part for part in costs if part.is_decided), None)
    if decided is not None:
        clauses.append(_clause(decided))
    elif costs:
        clauses.append("at equal cost nothing is decided")
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def _clause(part: ForestPart) -> str:
    decided = [one for one in part.comparisons if one.verdict is not Verdict.EXPLORATORY]
    claims = [_claim(one, part.table.title(one.method)) for one in decided]
    start, last = ", ".join(claims[:-1]), claims[-1:] or ["nothing is decided"]
    return f"{place_text(part)}, {' and '.join(filter(None, [start, *last]))}"


def _claim(one: Comparison, name: str) -> str:
    verdict = str(one.verdict)
    if one.verdict is Verdict.TOO_FEW_PROMPTS:
        return f"{name} has {verdict}"
    if verdict.startswith(_CHECKPOINT):
        name, verdict = f"{name}, this checkpoint,", verdict.removeprefix(_CHECKPOINT)
    return f"{name} is {verdict} ({difference_text(one)})"


def place_text(part: ForestPart) -> str:
    """Where a part compares, by what and against which method."""
    table = part.table
    where = "at the last step" if part.matched is None else f"at {amount_text(part.matched)}"
    metric = table.facts[table.final_metric].title
    return f"{where}, by {metric} against {table.title(table.baseline)}"


def heading(part: ForestPart) -> str:
    """``place_text`` as a heading."""
    text = place_text(part)
    return f"{text[0].upper()}{text[1:]}"


def forest_numbers(parts: Sequence[ForestPart]) -> pd.DataFrame:
    """A row a comparison; without counter and level at the last steps."""
    lines = [
        {
            "task": part.table.task, "metric": one.facts.name, "baseline": one.baseline,
            "counter": part.matched and part.matched.counter,
            "level": part.matched and part.matched.level, "method": one.method,
            "difference": one.difference.estimate, "low": one.difference.low,
            "high": one.difference.high, "p_value": one.p_value,
            "adjusted_p_value": one.adjusted_p_value, "verdict": str(one.verdict),
        }
        for part in parts
        for one in part.comparisons
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=list(_FOREST_COLUMNS), dtype=object)
