"""Every table of a report twice: as numbers for CSV, and as texts; all formats print these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from soarbench.common.files import write_atomically
from soarbench.common.provenance import UNKNOWN
from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import Estimate
from soarbench.report.numbers.names import BASE, method_title, titles_of
from soarbench.report.numbers.reference import AS_PUBLISHED, published_head
from soarbench.report.numbers.tables import BUDGET_COLUMNS, MethodRow, TaskTable
from soarbench.report.numbers.thresholds import AXES, Crossing
from soarbench.stats import Interval
from soarbench.store.cells import Cell, Launch
from soarbench.store.facts import MetricFacts

NOTHING = "-"
SCORE_COLUMNS = (
    "task", "method", "metric", "is_final_metric", "is_oracle",
    "value", "low", "high", "num_prompts", "num_seeds", "num_unscored",
    "baseline", "difference", "difference_low", "difference_high",
    "p_value", "adjusted_p_value", "verdict", "detectable_difference",
    *BUDGET_COLUMNS, "suite", "fingerprint", "cell_ids", "mlflow_run_ids", "missing",
)  # fmt: skip
_CURVE_COLUMNS = (
    "task", "metric", "method", "step", "value", "low", "high", "num_prompts", "num_seeds",
)  # fmt: skip
_THRESHOLD_COLUMNS = (
    "task", "metric", "threshold", "source", "method", "reached", *AXES,
    "steps_low", "steps_high", "share_of_resamples",
)  # fmt: skip
TRACE_COLUMNS = (
    "task", "method", "seed", "cell_id", "mlflow_run_id",
    "command", "git_commit", "soarbench", "python", "platform", "created_at",
)  # fmt: skip


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """Write a file of a report, whole or not at all."""
    # Titles have arrows, and some machines' own encoding has none.
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _numbers(columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    # As objects: a whole number stays one beside a missing value.
    return pd.DataFrame(list(lines), columns=list(columns), dtype=object)


# Numbers


def score_numbers(tables: Sequence[TaskTable]) -> pd.DataFrame:
    """A row a task, method and metric, at full precision; a missing number is empty."""
    return _numbers(SCORE_COLUMNS, (line for table in tables for line in _score_lines(table)))


def _score_lines(table: TaskTable) -> Iterator[dict[str, object]]:
    return (score_line(table, row, name) for row in table.rows for name in table.metrics)


def score_line(table: TaskTable, row: MethodRow, evaluator: str) -> dict[str, object]:
    """One row of ``score_numbers``, without what is missing."""
    estimate, comparison = row.estimates.get(evaluator), row.comparisons.get(evaluator)
    missing = [hole.describe() for hole in row.holes if hole.evaluator in (None, evaluator)]
    line: dict[str, object] = {
        "task": table.task,
        "method": row.method,
        "metric": evaluator,
        "is_final_metric": evaluator == table.final_metric,
        "is_oracle": table.facts[evaluator].is_oracle,
        "suite": table.suites[evaluator],
        "fingerprint": table.fingerprints[evaluator],
        "cell_ids": " ".join(row.cell_ids),
        "mlflow_run_ids": " ".join(row.mlflow_run_ids),
        "missing": "; ".join(missing),
        **row.budget,
    }
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
    return _numbers(
        columns,
        (
            {"counter": one.counter, "level": one.level, **line}
            for one in matched
            for line in _score_lines(one.table)
        ),
    )


def threshold_numbers(crossings: Sequence[Crossing]) -> pd.DataFrame:
    """A row a task and method; no numbers where it is not reached or not measured."""
    return _numbers(
        _THRESHOLD_COLUMNS,
        (
            {
                **vars(one), **one.needed, "reached": one.is_reached, "steps_low": one.low,
                "steps_high": one.high, "share_of_resamples": one.share,
            }
            for one in crossings
        ),
    )  # fmt: skip


def curve_numbers(points: Sequence[CurvePoint]) -> pd.DataFrame:
    """A row a point of the curves."""
    return _numbers((*_CURVE_COLUMNS, *COUNTERS), ({**vars(one), **one.spent} for one in points))


def trace_numbers(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row a cell and command that worked on it; ``unknown`` where that was not recorded."""
    return _numbers(
        TRACE_COLUMNS,
        (
            {
                "task": cell.task, "method": cell.method, "seed": cell.seed,
                "cell_id": cell.cell_id, "mlflow_run_id": cell.mlflow_run_id or UNKNOWN,
                # In UTC: the same store gives the same report on every machine.
                "created_at": datetime.fromtimestamp(cell.created_at, UTC).isoformat(
                    timespec="seconds"
                ),
                **vars(launch),
            }
            for cell in cells
            for launch in cell.launches or (Launch(),)
        ),
    )  # fmt: skip


# Texts


def number_text(interval: Interval, decimals: int, *, sign: str = "") -> str:
    """An estimate with its interval, as text."""
    low, high = f"{interval.low:{sign}.{decimals}f}", f"{interval.high:{sign}.{decimals}f}"
    return f"{interval.estimate:{sign}.{decimals}f} [{low}, {high}]"


def value_text(estimate: Estimate | None, facts: MetricFacts) -> str:
    """A metric's value with its interval; marked with a star where images are left out."""
    if estimate is None or estimate.interval is None:
        return NOTHING
    mark = "*" if estimate.num_unscored else ""
    return number_text(estimate.interval, facts.decimals) + mark


def score_texts(table: TaskTable) -> pd.DataFrame:
    """A row a metric and method, one metric after the other.

    Columns: metric, title (of the metric), method, name (the method's title), value, difference
    and verdict; the last two are empty where nothing is compared.
    """
    columns = ("metric", "title", "method", "name", "value", "difference", "verdict")
    lines = []
    for metric in table.metrics:
        facts = table.facts[metric]
        for row in table.rows:
            difference = verdict = ""
            if (one := row.comparisons.get(metric)) is not None:
                difference = number_text(one.difference, facts.decimals, sign="+")
                verdict = str(one.verdict)
            value = value_text(row.estimates.get(metric), facts)
            names = (metric, facts.title, row.method, table.title(row.method))
            lines.append((*names, value, difference, verdict))
    return _texts(columns, lines)


def cost_texts(table: TaskTable) -> pd.DataFrame:
    """A row a method: its name, finished seeds and what its training spent."""
    lines = [
        (
            table.title(row.method),
            _seeds_text(row),
            *(_amount(row.budget, name) for name in BUDGET_COLUMNS),
        )
        for row in table.rows
    ]
    return _texts(("Method", "Seeds", *BUDGET_COLUMNS.values()), lines)


def _texts(columns: Sequence[str], lines: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    # As objects: an empty table of texts is one of texts, too.
    return pd.DataFrame(lines, columns=list(columns), dtype=object)


def _seeds_text(row: MethodRow) -> str:
    """How many of the planned seeds are finished; the base has none."""
    done = len(row.cell_ids)
    if row.method == BASE:
        return NOTHING
    return str(done) if done == row.num_planned else f"{done} of {row.num_planned}"


def _amount(spent: Mapping[str, float], name: str) -> str:
    return f"{spent[name]:,.0f}" if name in spent else NOTHING


def wide(table: TaskTable, scores: pd.Series[str], titles: Sequence[str]) -> pd.DataFrame:
    """Methods as rows: name and seeds, a column a metric, costs.

    ``scores`` are a text a row of ``score_texts``; ``titles`` those of the metrics' columns.
    """
    costs, size = cost_texts(table), len(table.rows)
    # By position, not by a pivot: two metrics may have the same title.
    columns = [
        scores.iloc[i * size : (i + 1) * size].reset_index(drop=True).rename(title)
        for i, title in enumerate(titles)
    ]
    return pd.concat([costs.iloc[:, :2], *columns, costs.iloc[:, 2:]], axis=1)


def threshold_texts(crossings: Sequence[Crossing]) -> pd.DataFrame:
    """A row a method: what it needs to reach one task's threshold."""
    counters = {name: name.replace("_", " ").capitalize() for name in COUNTERS}
    lines = [
        (
            one.title,
            _steps_text(one),
            *(_amount(one.needed, name) for name in counters),
            NOTHING if one.share is None else f"{100 * one.share:.0f} %",
        )
        for one in crossings
    ]
    return _texts(("Method", "Steps [95 %]", *counters.values(), "Sure to reach it"), lines)


def _steps_text(one: Crossing) -> str:
    reached = _end_text(one.needed.get("step")) if one.is_reached else "never"
    if one.low is None and one.high is None:
        return reached
    return f"{reached} [{_end_text(one.low)}, {_end_text(one.high)}]"


def _end_text(steps: float | None) -> str:
    if steps is None:
        return NOTHING
    return f"{steps:.0f}" if math.isfinite(steps) else "never"


def measured_texts(
    published: pd.DataFrame, tables: Sequence[TaskTable], cells: Sequence[Cell]
) -> pd.DataFrame:
    """Measured rows with the published columns, in their order; what was not measured is a dash.

    The configurations of the cells name the model and the resolution.
    """
    models = {cell.method: cell.config.get("model") for cell in cells}
    titles = titles_of(cells)
    rows = []
    for method in dict.fromkeys(row.method for table in tables for row in table.rows):
        title = method_title(method, titles)
        texts = {"Method": title, "Steps": "0"}
        texts |= _model_texts(models.get(method), None if method == BASE else title)
        for table in tables:
            for row in table.rows:
                if row.method == method:
                    texts |= _measured(table, row, is_only=len(tables) == 1)
        rows.append([texts.get(head) or NOTHING for head in published.columns])
    return pd.DataFrame(rows, columns=published.columns, dtype=object)


def _model_texts(model: object, method: str | None) -> dict[str, str]:
    facts = model if isinstance(model, Mapping) else {}
    name = str(facts.get("name", "")) or "model"
    title = name if method is None else f"{name} + {method}"
    return {"Model": title, "Resolution": str(facts.get("resolution", ""))}


def _measured(table: TaskTable, row: MethodRow, *, is_only: bool) -> dict[str, str]:
    """A row's texts by published head."""
    # The paper's heads name a task only where it optimises several metrics one by one.
    task = None if is_only else table.task
    texts = {
        published_head(name, task): value_text(row.estimates.get(name), table.facts[name])
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
