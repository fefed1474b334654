"""What a launch's run says of its report: paired differences as metrics, findings in words."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Metric

from soarbench.common.files import read_json
from soarbench.tracking.launch import Launch

#: Columns of ``table.csv``, and what they are called behind a difference's name.
_BOUNDS = {"difference": "", "difference_low": "/low", "difference_high": "/high"}
_REFUSED = re.compile(r"[^\w. /-]")


def difference_metrics(folder: Path, stamp: int) -> Iterator[Metric]:
    """``difference/TASK/METRIC/METHOD-BASELINE`` with the ends of its 95 % interval.

    Args:
        folder: Of the report.
        stamp: Milliseconds that do not change, so that MLflow keeps each once.
    """
    with (folder / "table.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            pair = f"{row['method']}-{row['baseline']}"
            name = _REFUSED.sub("_", f"difference/{row['task']}/{row['metric']}/{pair}")
            for column, ending in _BOUNDS.items():
                if row[column]:
                    yield Metric(name + ending, float(row[column]), stamp, 0)


def launch_note(launch: Launch, folder: Path | None) -> str:
    """A launch in words, with what its report found where there is one."""
    lines = [f"A launch, {launch.name}; its children are the grid's cells."]
    if folder is not None:
        lines += [f"- {finding}" for finding in _findings(folder)]
        lines.append(
            "Paired differences and their 95 % intervals are the metrics `difference/`; the whole "
            "report is the artifact `report/index.html`."
        )
    # Long, and the page folds a note after its first lines.
    if "command" in launch.tags:
        lines.append(f"`{launch.tags['command']}`")
    return "\n\n".join(lines)


def _findings(folder: Path) -> list[str]:
    tasks = read_json(folder / "summary.json")["tasks"]
    assert isinstance(tasks, list)
    return [f"{task['task']}: {finding}" for task in tasks for finding in task["findings"]]
