"""Configurations, protocols and environment of a report's cells, as the page shows them."""

from __future__ import annotations

import itertools
import json
import platform
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from soarbench import __version__
from soarbench.common.provenance import UNKNOWN
from soarbench.report.numbers.names import method_title, titles_of
from soarbench.report.numbers.protocols import differing, task_protocols
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.page.tables import DataTable, data_table
from soarbench.report.text import frames
from soarbench.store.cells import Cell


def trace(cells: Sequence[Cell]) -> DataTable:
    """From every cell to its run, command and commit; what all share is in the caption."""
    heads = {
        "cell_id": "Cell", "mlflow_run_id": "MLflow run", "created_at": "Begun (UTC)",
        "command": "Command", "git_commit": "Commit", "soarbench": "soarbench",
    }  # fmt: skip
    frame = frames.trace_numbers(cells)[list(heads)].rename(columns=heads)
    frame["Begun (UTC)"] = frame["Begun (UTC)"].str[:16].str.replace("T", " ")
    shared = [head for head in list(heads.values())[3:] if frame[head].nunique() == 1]
    same = "".join(f"; {head.lower()} {frame[head].iloc[0]}" for head in shared)
    caption = f"Cells and their MLflow runs{same}"
    return data_table(caption, frame.drop(columns=shared), texts=len(heads))


def configurations(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """One configuration a task and method, and in what the other seeds' differ from it."""
    ordered = sorted(cells, key=lambda cell: (cell.task, cell.method, cell.seed))
    groups = itertools.groupby(ordered, key=lambda cell: (cell.task, cell.method))
    return [_configuration(list(group)) for _, group in groups]


def _configuration(cells: Sequence[Cell]) -> dict[str, str]:
    # Seeds differ in a field or two: one configuration and the names of these say it all.
    first, *others = cells
    fields = {line.partition(":")[0] for o in others for line in differing(first.config, o.config)}
    note = f"Cell {first.cell_id}, training seed {first.seed}."
    if others:
        seeds = ", ".join(str(cell.seed) for cell in cells)
        note += f" Seeds {seeds} have the same configuration but for {', '.join(sorted(fields))}."
    of_task = "" if first.is_base else f", task {first.task}"
    return {
        "title": f"{method_title(first.method, titles_of(cells))}{of_task}",
        "note": note,
        "text": json.dumps(first.config, indent=1, ensure_ascii=False),
    }


def protocols(cells: Sequence[Cell], tables: Sequence[TaskTable]) -> list[dict[str, str]]:
    """The protocol behind the fingerprint of every number of the tables."""
    stored = task_protocols(cells)
    entries = []
    for table in tables:
        for name in table.metrics:
            facts = stored.get((table.task, table.suites[name], name))
            text = "not kept" if facts is None else json.dumps(facts, indent=1, ensure_ascii=False)
            title = f"{table.facts[name].title}, task {table.task}, suite {table.suites[name]}"
            entries.append({"title": f"{title}: {table.fingerprints[name]}", "text": text})
    return entries


def environment(cells: Sequence[Cell]) -> DataTable:
    """What made the cells and what made the page."""
    # A grid may be finished by several versions and machines; all of them are named.
    launches = [launch for cell in cells for launch in cell.launches]
    facts = {
        "Cells made by soarbench": _several(launch.soarbench for launch in launches),
        "Cells made with Python": _several(launch.python for launch in launches),
        "Cells made on": _several(launch.platform for launch in launches),
        "Commits": _several(launch.git_commit for launch in launches),
    }
    for protocol in task_protocols(cells).values():
        libraries = protocol.get("libraries")
        if isinstance(libraries, Mapping):
            facts |= {f"{name} (of the scores)": str(of) for name, of in libraries.items()}
    facts["Page made by soarbench"] = __version__
    facts["Page made with Python"] = platform.python_version()
    frame = pd.DataFrame(facts.items(), columns=["What", "Version"], dtype=object)
    return data_table("Software", frame, texts=2)


def _several(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values))) or UNKNOWN
