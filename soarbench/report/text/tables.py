"""The comparison table as Markdown, CSV, JSON and console tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from soarbench.report.numbers.curves import COUNTERS, CurvePoint
from soarbench.report.numbers.estimates import Comparison, Estimate
from soarbench.report.numbers.names import BASE, method_title
from soarbench.report.numbers.tables import BUDGET_COLUMNS, MethodRow, TaskTable
from soarbench.stats import Interval
from soarbench.store.facts import MetricFacts

NOTHING = "-"
_VERDICT_STYLES = {"better": "green", "worse": "red"}
CSV_COLUMNS = (
    "task",
    "method",
    "metric",
    "is_final_metric",
    "is_oracle",
    "value",
    "low",
    "high",
    "num_prompts",
    "num_seeds",
    "num_unscored",
    "baseline",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
    "adjusted_p_value",
    "verdict",
    "detectable_difference",
    *BUDGET_COLUMNS,
    "suite",
    "fingerprint",
    "cell_ids",
    "mlflow_run_ids",
    "missing",
)


def number_text(interval: Interval, decimals: int, *, sign: str = "") -> str:
    """An estimate with its interval, as text."""
    low, high = f"{interval.low:{sign}.{decimals}f}", f"{interval.high:{sign}.{decimals}f}"
    return f"{interval.estimate:{sign}.{decimals}f} [{low}, {high}]"


def value_text(estimate: Estimate | None, facts: MetricFacts) -> str:
    """A metric's value with its interval; marked where images are left out."""
    if estimate is None or estimate.interval is None:
        return NOTHING
    mark = "*" if estimate.num_unscored else ""
    return number_text(estimate.interval, facts.decimals) + mark


def difference_text(comparison: Comparison | None) -> str:
    """A paired difference with its interval."""
    if comparison is None:
        return NOTHING
    return number_text(comparison.difference, comparison.facts.decimals, sign="+")


def seeds_text(row: MethodRow) -> str:
    """How many of the planned seeds are finished."""
    if row.method == BASE:
        return NOTHING
    done = len(row.cell_ids)
    return str(done) if done == row.num_planned else f"{done} of {row.num_planned}"


def budget_texts(row: MethodRow) -> list[str]:
    """What a method spent, in the order of ``BUDGET_COLUMNS``."""
    return [
        f"{row.budget[name]:,.0f}" if name in row.budget else NOTHING for name in BUDGET_COLUMNS
    ]


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int) -> str:
    """A Markdown table; all but the first ``texts`` columns are numbers, to the right."""
    rules = ["---"] * texts + ["---:"] * (len(columns) - texts)
    lines = [columns, rules, *rows]
    return "\n".join("| " + " | ".join(cell or NOTHING for cell in line) + " |" for line in lines)


def task_markdown(table: TaskTable) -> str:
    """Methods as rows; every metric with its difference to the baseline below it."""
    heads = [f"{table.facts[name].title} [95 %]" for name in table.metrics]
    if heads:
        heads[0] += f"<br>vs {method_title(table.baseline)}: verdict"
    rows = []
    for row in table.rows:
        texts = [method_title(row.method), seeds_text(row)]
        for name in table.metrics:
            value = value_text(row.estimates.get(name), table.facts[name])
            comparison = row.comparisons.get(name)
            if comparison is not None:
                value += f"<br>{difference_text(comparison)}: {comparison.verdict}"
            texts.append(value)
        rows.append([*texts, *budget_texts(row)])
    columns = ["Method", "Seeds", *heads, *BUDGET_COLUMNS.values()]
    return markdown_table(columns, rows, texts=1)


def table_csv(tables: Sequence[TaskTable]) -> str:
    """One line a task, method and metric, at full precision; a missing number is empty."""
    lines = [
        csv_line(table, row, name)
        for table in tables
        for row in table.rows
        for name in table.metrics
    ]
    return csv_text(CSV_COLUMNS, lines)


def csv_line(table: TaskTable, row: MethodRow, evaluator: str) -> dict[str, object]:
    """One line of ``table.csv``, without what is missing."""
    found, comparison = row.estimates.get(evaluator), row.comparisons.get(evaluator)
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
        "missing": "; ".join(
            hole.describe() for hole in row.holes if hole.evaluator in (None, evaluator)
        ),
        **row.budget,
    }
    if found is not None:
        line["num_unscored"] = found.num_unscored
        if found.interval is not None:
            line |= {
                "value": found.interval.estimate,
                "low": found.interval.low,
                "high": found.interval.high,
                "num_prompts": found.interval.num_prompts,
                "num_seeds": found.interval.num_seeds,
            }
    return line | (_comparison_fields(comparison) if comparison is not None else {})


def _comparison_fields(comparison: Comparison) -> dict[str, object]:
    return {
        "baseline": comparison.baseline,
        "difference": comparison.difference.estimate,
        "difference_low": comparison.difference.low,
        "difference_high": comparison.difference.high,
        "p_value": comparison.p_value,
        "adjusted_p_value": comparison.adjusted_p_value,
        "verdict": str(comparison.verdict),
        "detectable_difference": comparison.detectable,
    }


def curves_csv(points: Sequence[CurvePoint]) -> str:
    """The data of the figure: one line a point."""
    own = ("task", "metric", "method", "step", "value", "low", "high", "num_prompts", "num_seeds")
    return csv_text((*own, *COUNTERS), [{**vars(point), **point.spent} for point in points])


def csv_text(columns: Sequence[str], lines: Iterable[dict[str, object]]) -> str:
    """Lines as CSV."""
    # As objects: a whole number stays one beside a missing value.
    frame = pd.DataFrame(list(lines), columns=list(columns), dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def summary(table: TaskTable) -> dict[str, object]:
    """A task's table as plain values for ``summary.json``."""
    methods = {}
    for row in table.rows:
        lines = {name: csv_line(table, row, name) for name in table.metrics}
        kept = CSV_COLUMNS[CSV_COLUMNS.index("value") : CSV_COLUMNS.index("optimizer_steps")]
        methods[row.method] = {
            "metrics": {
                name: {key: line[key] for key in kept if key in line}
                for name, line in lines.items()
            },
            "budget": dict(row.budget),
            "cell_ids": list(row.cell_ids),
            "mlflow_run_ids": list(row.mlflow_run_ids),
            "missing": [hole.describe() for hole in row.holes],
        }
    return {
        "task": table.task,
        "final_metric": table.final_metric,
        "baseline": table.baseline,
        "suites": dict(table.suites),
        "fingerprints": dict(table.fingerprints),
        "methods": methods,
        "findings": table.findings(),
        "notes": table.notes(),
        "gaps": table.gaps(),
    }


def score_table(table: TaskTable) -> Table:
    """For the console: a section a metric, so that it fits any number of metrics."""
    rendered = Table(
        title=f"Task: {table.task}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    rendered.add_column("Method")
    rendered.add_column("Value [95 %]", justify="right")
    rendered.add_column(f"vs {method_title(table.baseline)} [95 %]", justify="right")
    rendered.add_column("Verdict")
    for name in table.metrics:
        rendered.add_row(Text(table.facts[name].title, style="bold"))
        for row in table.rows:
            comparison = row.comparisons.get(name)
            verdict = "" if comparison is None else str(comparison.verdict)
            is_claim = name == table.final_metric and row.method != BASE
            rendered.add_row(
                f" {method_title(row.method)}",
                value_text(row.estimates.get(name), table.facts[name]),
                "" if row.method == table.baseline else difference_text(comparison),
                verdict,
                style=_VERDICT_STYLES.get(verdict) if is_claim else None,
                end_section=row is table.rows[-1],
            )
    return rendered


def budget_table(table: TaskTable) -> Table:
    """For the console: what each method spent."""
    rendered = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rendered.add_column("Method")
    for head in ("Seeds", *BUDGET_COLUMNS.values()):
        rendered.add_column(head, justify="right")
    for row in table.rows:
        rendered.add_row(method_title(row.method), seeds_text(row), *budget_texts(row))
    return rendered
