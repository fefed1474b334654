"""From a row to what made it: its cells, their MLflow runs, commands and commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from soarbench.common.provenance import UNKNOWN
from soarbench.report.text.tables import csv_text
from soarbench.store.cells import Cell, Launch

TRACE_COLUMNS = (
    "task",
    "method",
    "seed",
    "cell_id",
    "mlflow_run_id",
    "command",
    "git_commit",
    "soarbench",
    "python",
    "platform",
    "created_at",
)
_NOT_RECORDED = Launch(
    command=UNKNOWN, git_commit=UNKNOWN, soarbench=UNKNOWN, python=UNKNOWN, platform=UNKNOWN
)


def trace_lines(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """A line a cell and command that worked on it; ``unknown`` where that was not recorded."""
    return [
        {
            "task": cell.task,
            "method": cell.method,
            "seed": cell.seed,
            "cell_id": cell.cell_id,
            "mlflow_run_id": cell.mlflow_run_id or UNKNOWN,
            **vars(launch),
            "created_at": _date(cell.created_at),
        }
        for cell in cells
        for launch in cell.launches or (_NOT_RECORDED,)
    ]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def trace_csv(cells: Sequence[Cell]) -> str:
    """``trace.csv``: every cell of the report."""
    return csv_text(TRACE_COLUMNS, trace_lines(cells))
