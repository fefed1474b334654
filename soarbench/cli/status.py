"""``python -m soarbench status``: how far the grids of an output directory are."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from soarbench.cli.exported import refuse_exports
from soarbench.common.errors import UserError
from soarbench.common.files import is_locked
from soarbench.common.progress import print_line
from soarbench.config.compose import folder_settings
from soarbench.config.overrides import parse_overrides
from soarbench.jobs.delivery import CellLog
from soarbench.launchers.live import Live
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord, Status

#: Without a word for so long, a grid of another machine counts as ended.
_SECONDS_OF_SILENCE = 900.0


def status(words: Sequence[str], *, as_json: bool, console: Console) -> int:
    """Say of every grid below ``output_dir``, or of ``grid=``, how far it is, and what runs."""
    output_dir = Path(folder_settings(words).output_dir).expanduser()
    folders = sorted(path for path in output_dir.glob("grids/*") if path.is_dir())
    if not folders:
        refuse_exports(output_dir)
        raise UserError(f"output_dir={output_dir}: no grid was run there yet")
    if (asked := parse_overrides(words).grid) is not None:
        names = [folder.name for folder in folders]
        if asked not in names:
            raise UserError(f"grid={asked}: was not run in {output_dir}; {', '.join(names)} were")
        folders = [folder for folder in folders if folder.name == asked]
    reports = {folder.name: report(folder) for folder in folders}
    if as_json:
        console.file.write(json.dumps(reports, indent=1) + "\n")
        return 0
    for name, values in reports.items():
        for line in lines(name, values):
            print_line(console, line)
    return 0


def report(folder: Path) -> dict[str, object]:
    """What is known of a grid: its cells, and what it said last if it runs."""
    records = [CellRecord(path.parent) for path in sorted(folder.glob("*/cell.json"))]
    states = {record.root.name: record.status() or Status() for record in records}
    store = Store(folder.parents[1])
    finished = [record for record in records if states[record.root.name].state == "finished"]
    logs = [CellLog(store=store, description=record.description()) for record in finished]
    live = Live(folder).read() or {}
    is_running = is_locked(folder) or _is_fresh(live)
    return {
        "running": is_running,
        "cells": dict(Counter(status.state for status in states.values())),
        "failed": {name: s.reason for name, s in states.items() if s.state == "failed"},
        # As far as was known when it was last tried: only ``sync`` asks MLflow.
        "undelivered": [log.cell_id for log in logs if not log.is_delivered],
        "live": live if is_running else {},
    }


def _is_fresh(live: Mapping[str, object]) -> bool:
    """Whether a process of another machine, whose lock is not seen here, still writes."""
    is_elsewhere = live.get("host", platform.node()) != platform.node()
    return is_elsewhere and time.time() - float(str(live.get("time", 0))) < _SECONDS_OF_SILENCE


def lines(name: str, values: Mapping[str, object]) -> list[str]:
    """A report in words."""
    cells, live, failed = values["cells"], values["live"], values["failed"]
    assert isinstance(cells, dict)
    assert isinstance(live, dict)
    assert isinstance(failed, dict)
    total = sum(cells.values())
    text = f"{name}: {cells.get('finished', 0)} of {total} cells finished"
    undelivered = values["undelivered"]
    assert isinstance(undelivered, list)
    text += f", {len(undelivered)} of them not yet delivered" if undelivered else ""
    text += f", {len(failed)} failed" if failed else ""
    if live:
        left = timedelta(seconds=round(live["seconds_left"]))
        text += f"; {100 * live['share']:.0f} %, {left} left"
        text += f", {live['facts']}" if live["facts"] else ""
        if live["images_per_second"]:
            text += f", {live['images_per_second']:.1f} images a second"
        text += f" (process {live['pid']} on {live['host']})"
    else:
        text += "; runs" if values["running"] else "; does not run"
    running = [f"  {line}" for line in live.get("running", ())]
    return [text, *running, *(f"  FAILED {cell}: {reason}" for cell, reason in failed.items())]
