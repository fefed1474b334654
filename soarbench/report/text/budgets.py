"""Matched budgets and thresholds as Markdown and CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence

from soarbench.config.stages import first_stage
from soarbench.report.numbers.budgets import MatchedTable, trained_rows
from soarbench.report.numbers.names import method_title
from soarbench.report.numbers.tables import finding
from soarbench.report.numbers.thresholds import AXES, Crossing
from soarbench.report.text.tables import (
    CSV_COLUMNS,
    NOTHING,
    csv_line,
    csv_text,
    markdown_table,
    task_markdown,
)

COUNTER_TITLES = {
    "step": "steps",
    "images_seen": "images seen",
    "forward_equivalents": "forward equivalents",
    "reward_calls": "reward calls",
    "seconds": "seconds",
}
THRESHOLD_NOTE = (
    "The first crossing, linear between snapshots. The interval resamples prompts and takes the "
    "training seeds as they are; 'never' is a resample that does not reach the value."
)
#: Why a crossing is a dash.
EARLY_CROSSING_NOTE = (
    "A dash for steps lies between the base and the first snapshot. Nothing was measured there and "
    "scores do not rise in a straight line, so nothing is interpolated; "
    "more budget.num_snapshots would measure it."
)
THRESHOLD_HEADS = (
    "Method",
    "Steps [95 %]",
    "Images seen",
    "Forward equivalents",
    "Reward calls",
    "Seconds",
    "Sure to reach it",
)


def level_text(matched: MatchedTable) -> str:
    """What is equal, in words."""
    spenders = " and ".join(method_title(method) for method in matched.methods)
    amount = f"{matched.level:,.0f} {COUNTER_TITLES[matched.counter]}"
    return f"{amount}: all that {spenders} spent"


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
    if not matched.early:
        return ""
    names = " and ".join(method_title(method) for method in matched.early)
    return (
        f"{names}: a dash, since this cost lies between the base and the first snapshot. Nothing "
        "was measured there and scores do not rise in a straight line, so nothing is "
        "interpolated; more budget.num_snapshots would measure it."
    )


def matched_findings(matched: MatchedTable) -> list[str]:
    """The deciding metric's comparisons in words."""
    name = matched.table.final_metric
    rows = trained_rows(matched.table)
    return [finding(row.comparisons[name]) for row in rows if name in row.comparisons]


def matched_markdown(matched: Sequence[MatchedTable]) -> str:
    """The tables at equal cost of one task; empty where there is none."""
    if not matched:
        return ""
    parts = [f"### At equal {COUNTER_TITLES[matched[0].counter]}", matched_note(matched)]
    for one in matched:
        parts += [f"{level_text(one)}:", task_markdown(one.table)]
        findings = "\n".join(f"- {text}" for text in matched_findings(one))
        parts += [text for text in (early_note(one), findings) if text]
    return "\n\n".join(parts)


def matched_csv(matched: Sequence[MatchedTable]) -> str:
    """One line a counter, level, task, method and metric."""
    lines = [
        {"counter": one.counter, "level": one.level, **csv_line(one.table, row, name)}
        for one in matched
        for row in trained_rows(one.table)
        for name in one.table.metrics
    ]
    # Without the columns that would repeat the table at the last steps.
    kept = CSV_COLUMNS[: CSV_COLUMNS.index("suite")]
    return csv_text(("counter", "level", *kept), lines)


def threshold_rows(crossings: Sequence[Crossing]) -> list[list[str]]:
    """Rows of ``THRESHOLD_HEADS``."""
    return [
        [
            method_title(one.method),
            _steps_text(one),
            *(
                f"{one.needed[axis]:,.0f}" if axis in one.needed else NOTHING
                for axis in AXES
                if axis != "step"
            ),
            NOTHING if one.share is None else f"{100 * one.share:.0f} %",
        ]
        for one in crossings
    ]


def _steps_text(one: Crossing) -> str:
    reached = _end_text(one.needed.get("step")) if one.is_reached else "never"
    if one.low is None and one.high is None:
        return reached
    return f"{reached} [{_end_text(one.low)}, {_end_text(one.high)}]"


def _end_text(steps: float | None) -> str:
    if steps is None:
        return NOTHING
    return f"{steps:.0f}" if math.isfinite(steps) else "never"


def threshold_note(crossings: Sequence[Crossing]) -> str:
    """How to read what a value costs."""
    is_early = any(one.is_early for one in crossings)
    return f"{THRESHOLD_NOTE} {EARLY_CROSSING_NOTE}" if is_early else THRESHOLD_NOTE


def threshold_title(one: Crossing) -> str:
    """What is to be reached, in words."""
    return f"To reach {one.facts.title} {one.threshold:.{one.facts.decimals}f} ({one.source})"


def threshold_markdown(crossings: Sequence[Crossing]) -> str:
    """What each method needs to reach one task's threshold; empty where there is none."""
    if not crossings:
        return ""
    rows = threshold_rows(crossings)
    return "\n\n".join(
        [
            f"### {threshold_title(crossings[0])}",
            markdown_table(THRESHOLD_HEADS, rows, texts=1),
            threshold_note(crossings),
        ]
    )


def threshold_csv(crossings: Sequence[Crossing]) -> str:
    """One line a task and method; no numbers where it is not reached or not measured."""
    columns = (
        "task", "metric", "threshold", "source", "method", "reached", *AXES,
        "steps_low", "steps_high", "share_of_resamples",
    )  # fmt: skip
    lines: list[dict[str, object]] = [
        {
            "task": one.task,
            "metric": one.metric,
            "threshold": one.threshold,
            "source": one.source,
            "method": one.method,
            "reached": one.is_reached,
            **one.needed,
            "steps_low": one.low,
            "steps_high": one.high,
            "share_of_resamples": one.share,
        }
        for one in crossings
    ]
    return csv_text(columns, lines)
