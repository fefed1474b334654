"""Every table of a report twice, as numbers for CSV and as texts, and the words around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from soarbench.common.files import write_atomically
from soarbench.common.provenance import UNKNOWN
from soarbench.config.stages import first_stage
from soarbench.report.numbers.budgets import NOT_MEASURED, MatchedTable
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import Estimate
from soarbench.report.numbers.names import BASE, method_title, step_title, titles_of
from soarbench.report.numbers.reference import AS_PUBLISHED, published_head
from soarbench.report.numbers.tables import BUDGET_COLUMNS, MethodRow, TaskTable
from soarbench.report.numbers.thresholds import AXES, Crossing
from soarbench.stats import Interval
from soarbench.store.cells import Cell, Launch
from soarbench.store.facts import MetricFacts

NOTHING = "-"
#: What is estimated of a metric and compared, without its cost.
ESTIMATE_COLUMNS = (
    "value", "low", "high", "num_prompts", "num_seeds", "num_unscored",
    "baseline", "difference", "difference_low", "difference_high",
    "p_value", "adjusted_p_value", "verdict", "detectable_difference",
)  # fmt: skip
SCORE_COLUMNS = (
    "task", "method", "metric", "is_final_metric", "is_oracle", *ESTIMATE_COLUMNS,
    *BUDGET_COLUMNS, "suite", "fingerprint", "cell_ids", "mlflow_run_ids", "missing",
)  # fmt: skip
_CURVE_COLUMNS = (
    "task", "metric", "method", "step", "value", "low", "high", "num_prompts", "num_seeds",
)  # fmt: skip
_PAIRED_COLUMNS = ("difference", "difference_low", "difference_high")
_THRESHOLD_COLUMNS = (
    "task", "metric", "threshold", "source", "method", "reached", *AXES,
    "steps_before", "steps_after", "steps_low", "steps_high", "share_of_resamples",
)  # fmt: skip
_TRACE_COLUMNS = (
    "task", "method", "seed", "cell_id", "mlflow_run_id",
    "command", "git_commit", "soarbench", "python", "platform", "created_at",
)  # fmt: skip

COUNTER_TITLES = {name: name.replace("_", " ") for name in COUNTERS}
#: How to read what a value costs.
THRESHOLD_NOTE = (
    "The first crossing, which is early for a curve that goes up and down. The interval resamples "
    "prompts and, where there are several, training seeds, the same for all methods; "
    "'never' is a resample that does not reach the value. 'Between' two snapshots, or the base and "
    "the first one, nothing more was measured, and an end of an interval there is the snapshot "
    "beyond it; where two differ by at most a quarter of the narrower one's 95 % interval, the "
    "crossing is linear between them."
)
#: Interpolated before its first snapshot, SOAR was .044 behind SFT at SFT's cost; measured, it was
#: .100 ahead.
_MATCHED_NOTE = (
    "Every method at the same cost: at a snapshot within half an update (or half of those that "
    "share a rollout or an averaging of weights) or 2.5 % of it, whose own cost the table shows."
)
_LINEAR_NOTE = (
    "Without one, an image's score is taken as linear between two snapshots that differ by at most "
    "a quarter of the narrower one's 95 % interval; as a mean of two images it has an interval up "
    "to 30 % too narrow, and decides nothing."
)


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """Write a file of a report, whole or not at all."""
    # Titles have arrows, and some machines' own encoding has none.
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _frame(
    columns: Sequence[str], lines: Iterable[Mapping[str, object] | tuple[str, ...]]
) -> pd.DataFrame:
    # As objects: a whole number stays one beside a missing value.
    return pd.DataFrame(list(lines), columns=list(columns), dtype=object)


def score_numbers(tables: Sequence[TaskTable]) -> pd.DataFrame:
    """A row a task, method and metric, at full precision; a missing number is empty."""
    return _frame(SCORE_COLUMNS, (line for table in tables for line in _score_lines(table)))


def _score_lines(table: TaskTable) -> Iterator[dict[str, object]]:
    return (score_line(table, row, name) for row in table.rows for name in table.metrics)


def score_line(table: TaskTable, row: MethodRow, evaluator: str) -> dict[str, object]:
    """One row of ``score_numbers``, without what is missing."""
    estimate, comparison = row.estimates.get(evaluator), row.comparisons.get(evaluator)
    missing = [hole.describe() for hole in row.holes if hole.evaluator in (None, evaluator)]
    line: dict[str, object] = {
        "task": table.task, "method": row.method, "metric": evaluator,
        "is_final_metric": evaluator == table.final_metric,
        "is_oracle": table.facts[evaluator].is_oracle,
        "suite": table.suites[evaluator], "fingerprint": table.fingerprints[evaluator],
        "cell_ids": " ".join(row.cell_ids), "mlflow_run_ids": " ".join(row.mlflow_run_ids),
        "missing": "; ".join(missing), **row.budget,
    }  # fmt: skip
    if estimate is not None:
        line["num_unscored"] = estimate.num_unscored
        if (interval := estimate.interval) is not None:
            line |= {
                "value": interval.estimate, "low": interval.low, "high": interval.high,
                "num_prompts": interval.num_prompts, "num_seeds": interval.num_seeds,
            }  # fmt: skip
    if comparison is not None:
        difference = comparison.difference
        line |= {
            "baseline": comparison.baseline, "difference": difference.estimate,
            "difference_low": difference.low, "difference_high": difference.high,
            "p_value": comparison.p_value, "adjusted_p_value": comparison.adjusted_p_value,
            "verdict": str(comparison.verdict), "detectable_difference": comparison.detectable,
        }  # fmt: skip
    return line


def matched_numbers(matched: Sequence[MatchedTable]) -> pd.DataFrame:
    """A row a counter, level, task, method and metric."""
    # Without the columns that would repeat the table at the last steps.
    columns = ("counter", "level", *SCORE_COLUMNS[: SCORE_COLUMNS.index("suite")])
    lines = (
        {"counter": one.counter, "level": one.level, **line}
        for one in matched
        for line in _score_lines(one.table)
    )
    return _frame(columns, lines)


def threshold_numbers(crossings: Sequence[Crossing]) -> pd.DataFrame:
    """A row a task and method; no numbers where it is not reached, or in a gap but its ends."""
    lines = (
        {
            **vars(one), **one.needed, "reached": one.is_reached, "steps_low": one.low,
            "steps_high": one.high, "share_of_resamples": one.share,
            **dict(zip(("steps_before", "steps_after"), one.between.get("step", ()), strict=False)),
        }
        for one in crossings
    )  # fmt: skip
    return _frame(_THRESHOLD_COLUMNS, lines)


def curve_numbers(
    points: Sequence[CurvePoint], differences: Sequence[CurvePoint] = ()
) -> pd.DataFrame:
    """A row a point of the curves, with its paired difference to the baseline where it has one."""
    paired = {
        (one.task, one.metric, one.method, one.step): {
            "difference": one.value, "difference_low": one.low, "difference_high": one.high,
        }
        for one in differences
    }  # fmt: skip
    lines = (
        {**vars(one), **one.spent, **paired.get((one.task, one.metric, one.method, one.step), {})}
        for one in points
    )
    return _frame((*_CURVE_COLUMNS, *COUNTERS, *_PAIRED_COLUMNS), lines)


def trace_numbers(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row a cell and command that worked on it; ``unknown`` where that was not recorded."""
    lines = []
    for cell in cells:
        # In UTC: the same store gives the same report on every machine.
        begun = datetime.fromtimestamp(cell.created_at, UTC).isoformat(timespec="seconds")
        names = {name: getattr(cell, name) for name in ("task", "method", "seed", "cell_id")}
        names |= {"mlflow_run_id": cell.mlflow_run_id or UNKNOWN, "created_at": begun}
        lines += [{**names, **vars(launch)} for launch in cell.launches or (Launch(),)]
    return _frame(_TRACE_COLUMNS, lines)


def number_text(interval: Interval, decimals: int, *, sign: str = "") -> str:
    """An estimate with its interval, as text."""
    low, high = f"{interval.low:{sign}.{decimals}f}", f"{interval.high:{sign}.{decimals}f}"
    return f"{interval.estimate:{sign}.{decimals}f} [{low}, {high}]"


def value_text(estimate: Estimate | None, facts: MetricFacts) -> str:
    """A metric's value with its interval; marked with a star where images are left out."""
    if estimate is None or estimate.interval is None:
        return NOT_MEASURED if estimate and estimate.problem == NOT_MEASURED else NOTHING
    mark = "*" if estimate.num_unscored else ""
    return number_text(estimate.interval, facts.decimals) + mark


def score_texts(table: TaskTable) -> pd.DataFrame:
    """A row a metric and method, metric by metric; nothing compared is an empty text."""
    columns = ("metric", "title", "method", "name", "value", "difference", "verdict")
    lines = []
    for metric in table.metrics:
        facts = table.facts[metric]
        for row in table.rows:
            one = row.comparisons.get(metric)
            compared = ("", "")
            if one is not None:
                compared = (number_text(one.difference, facts.decimals, sign="+"), str(one.verdict))
            names = (metric, facts.title, row.method, table.title(row.method))
            lines.append((*names, value_text(row.estimates.get(metric), facts), *compared))
    return _frame(columns, lines)


def cost_texts(table: TaskTable) -> pd.DataFrame:
    """A row a method: its name, finished seeds and what its training spent."""
    lines = []
    for row in table.rows:
        spent = (amount(row.budget, name) for name in BUDGET_COLUMNS)
        lines.append((table.title(row.method), _seeds_text(row), *spent))
    return _frame(("Method", "Seeds", *BUDGET_COLUMNS.values()), lines)


def _seeds_text(row: MethodRow) -> str:
    if row.method == BASE:
        return NOTHING  # it was not trained
    done = len(row.cell_ids)
    return str(done) if done == row.num_planned else f"{done} of {row.num_planned}"


def amount(spent: Mapping[str, float], name: str) -> str:
    """What training spent by a counter, in whole units."""
    return f"{spent[name]:,.0f}" if name in spent else NOTHING


def wide(table: TaskTable, scores: pd.Series[str], titles: Sequence[str]) -> pd.DataFrame:
    """Methods as rows: name and seeds, a titled column a metric of ``score_texts``' rows, costs."""
    costs, size = cost_texts(table), len(table.rows)
    # By position, not by a pivot: two metrics may have the same title.
    columns = [
        scores.iloc[i * size : (i + 1) * size].reset_index(drop=True).rename(title)
        for i, title in enumerate(titles)
    ]
    return pd.concat([costs.iloc[:, :2], *columns, costs.iloc[:, 2:]], axis=1)


def threshold_texts(crossings: Sequence[Crossing]) -> pd.DataFrame:
    """A row a method: what it needs to reach one task's threshold."""
    lines = []
    for one in crossings:
        spent = (_needed_text(one, name) for name in COUNTERS)
        sure = NOTHING if one.share is None else f"{100 * one.share:.0f} %"
        lines.append((one.title, _steps_text(one), *spent, sure))
    costs = [title.capitalize() for title in COUNTER_TITLES.values()]
    return _frame(("Method", "Steps [95 %]", *costs, "Sure to reach it"), lines)


def _steps_text(one: Crossing) -> str:
    reached = _needed_text(one, "step") if one.is_reached else "never"
    if one.low is None or one.high is None:
        return reached
    return f"{reached} [{_end_text(one.low)}, {_end_text(one.high)}]"


def _needed_text(one: Crossing, axis: str) -> str:
    """What is needed of an axis, or between what."""
    if axis not in one.between:
        return amount(one.needed, axis)
    first, last = (f"{amount:,.0f}" for amount in one.between[axis])
    return first if first == last else f"between {first} and {last}"


def _end_text(steps: float) -> str:
    # A resample that never reaches the value has its end at infinity.
    return f"{steps:.0f}" if math.isfinite(steps) else "never"


def measured_texts(
    published: pd.DataFrame, tables: Sequence[TaskTable], cells: Sequence[Cell]
) -> pd.DataFrame:
    """Measured rows with the published columns, in their order; what was not measured is a dash."""
    models = {cell.method: cell.config.get("model") for cell in cells}
    guidance = {cell.method: _guidance(cell) for cell in cells}
    titles = titles_of(cells)
    rows = []
    every = [(table, row) for table in tables for row in table.rows]
    for method in dict.fromkeys(row.method for _, row in every):
        model = models.get(method)
        facts = model if isinstance(model, Mapping) else {}
        name, title = str(facts.get("name", "")) or "model", method_title(method, titles)
        texts = {
            "Method": title, "Model": name if method == BASE else f"{name} + {title}",
            "Resolution": str(facts.get("resolution", "")), "Steps": "0",
            "Guidance": str(guidance.get(method, "")),
        }  # fmt: skip
        for table, row in every:
            if row.method == method:
                texts |= _measured(table, row, is_only=len(tables) == 1)
        rows.append(tuple(texts.get(head) or NOTHING for head in published.columns))
    return _frame(list(published.columns), rows)


def _guidance(cell: Cell) -> object:
    sampling = cell.config.get("sampling")
    return sampling.get("guidance_scale") if isinstance(sampling, Mapping) else None


def _measured(table: TaskTable, row: MethodRow, *, is_only: bool) -> dict[str, str]:
    # The paper's heads name a task only where it optimises several metrics one by one, of which a
    # grid that was narrowed has one left.
    texts = {
        published_head(name, task): value_text(row.estimates.get(name), table.facts[name])
        for task in ((table.task, None) if is_only else (table.task,))
        for name in table.metrics
    }
    if "optimizer_steps" in row.budget:
        texts["Steps"] = f"{row.budget['optimizer_steps']:.0f}"
    return texts


def layout_numbers(measured: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Measured and published rows, each labelled with its source."""
    parts = {"measured": measured, AS_PUBLISHED: published}
    return pd.concat(
        [frame.assign(Source=source)[["Source", *frame]] for source, frame in parts.items()]
    )


def amount_text(matched: MatchedTable) -> str:
    """How much of what is equal."""
    return f"{matched.level:,.0f} {COUNTER_TITLES[matched.counter]}"


def level_text(matched: MatchedTable) -> str:
    """What is equal, and whose whole training that is."""
    spenders = " and ".join(matched.table.title(method) for method in matched.methods)
    return amount_text(matched) + (f": all that {spenders} spent" if spenders else "")


def matched_note(matched: Sequence[MatchedTable]) -> str:
    """How to read tables at equal cost."""
    # Only what happened here: of other reasons a reader would look for the dash in vain.
    reasons = ["never spent as much"]
    if any(first_stage(row.method) for one in matched for row in one.table.rows):
        reasons.append("was still in its first stage")
    parts = [_MATCHED_NOTE]
    if sum(bool(one.table.family) for one in matched) > 1:
        parts.append("All costs of a task are one family, for which p-values are corrected.")
    if not all(place.is_measured for one in matched for place in one.places.values()):
        parts.append(_LINEAR_NOTE)
    return " ".join([*parts, f"A dash marks a method that {', or '.join(reasons)}."])


def place_notes(matched: MatchedTable) -> list[str]:
    """Where methods were that have no snapshot at this cost, a line each."""
    notes = []
    for method, place in matched.places.items():
        if place.is_measured:
            continue
        title, table = matched.table.title(method), matched.table
        gaps = matched.gaps.get(method, ())
        ends = (step_title(stop.method, stop.step) for stop in (place.before, place.after))
        between = "between {} and {}".format(*ends)
        if gaps:
            names = ", ".join(table.facts[name].title for name in gaps)
            notes.append(
                f"{title}: {names} not measured {between}; budget.costs=[{matched.level:.0f}] "
                "measures there."
            )
        if linear := [table.facts[name].title for name in table.metrics if name not in gaps]:
            notes.append(f"{title}: {', '.join(linear)} linear {between}.")
    return notes


def threshold_title(one: Crossing) -> str:
    """What is to be reached, in words."""
    return f"To reach {one.facts.title} {one.threshold:.{one.facts.decimals}f} ({one.source})"
