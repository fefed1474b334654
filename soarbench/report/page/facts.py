"""What a report is about, as the head of the page says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from soarbench.common.provenance import UNKNOWN
from soarbench.config.stages import first_stage
from soarbench.report.numbers.names import BASE
from soarbench.report.report import Report
from soarbench.store.cells import Cell

_MOST_COMMANDS = 2


def facts(report: Report) -> dict[str, list[str]]:
    """Values by name, a line each; without what the store does not say."""
    trained = [cell for cell in report.cells if not cell.is_base]
    launches = [launch for cell in report.cells for launch in cell.launches]
    values = {
        "Methods": [", ".join(_methods(report))],
        "Model": _distinct(_model(cell) for cell in report.cells),
        "Budget": _distinct(_budget(cell) for cell in trained),
        "Training seeds": [", ".join(str(seed) for seed in sorted({c.seed for c in trained}))],
        "Prompts": _prompts(report),
        "Begun": [_dates(report.cells)],
        "Commit": _distinct(one.git_commit[:12] for one in launches if one.git_commit != UNKNOWN),
        "Command": _commands([launch.command for launch in launches]),
    }
    return {name: own for name, lines in values.items() if (own := list(filter(None, lines)))}


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _methods(report: Report) -> list[str]:
    rows = ((table, row.method) for table in report.tables for row in table.rows)
    return _distinct(table.title(method) for table, method in rows if method != BASE)


def _part(cell: Cell, name: str) -> Mapping[str, object]:
    part = cell.config.get(name)
    return part if isinstance(part, Mapping) else {}


def _model(cell: Cell) -> str:
    model = _part(cell, "model")
    size = model.get("resolution")
    return ", ".join(filter(None, [str(model.get("name", "")), f"{size} px" if size else ""]))


def _budget(cell: Cell) -> str:
    training = _part(cell, "training")
    steps, batch = training.get("steps"), training.get("batch_size")
    stage = " a stage" if first_stage(cell.method) else ""
    return f"{steps:,} steps of {batch} images{stage}" if steps and batch else ""


def _prompts(report: Report) -> list[str]:
    lines = []
    for table in report.tables:
        estimates = [row.estimates.get(table.final_metric) for row in table.rows]
        intervals = [one.interval for one in estimates if one is not None and one.interval]
        if intervals:
            count = max(one.num_prompts for one in intervals)
            lines.append(f"{count} of {table.suites[table.final_metric]}")
    return _distinct(lines)


def _dates(cells: Sequence[Cell]) -> str:
    # In UTC: the same store gives the same page on every machine.
    days = [
        datetime.fromtimestamp(c.created_at, UTC).date().isoformat() for c in cells if c.launches
    ]
    return " to ".join(_distinct([min(days), max(days)])) if days else ""


def _commands(commands: Sequence[str]) -> list[str]:
    every = _distinct(commands)
    more = len(every) - _MOST_COMMANDS
    return every[:_MOST_COMMANDS] + ([f"and {more} more, in Provenance"] if more > 0 else [])
