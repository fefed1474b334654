"""Workbenches that workers make by name: what is sent to another process cannot be a closure."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid
from tests.fakes import FakeWorkbench


def quick(grid: Grid) -> FakeWorkbench:
    return FakeWorkbench().at(grid.store)


def noting_cores(grid: Grid) -> FakeWorkbench:
    """As ``quick``; each process leaves the cores that it may use, and says so."""
    logging.getLogger("soarbench.jobs").info("cores of %d", os.getpid())
    place = Path(grid.store.root) / f"cores-{os.getpid()}.json"
    place.write_text(json.dumps(sorted(os.sched_getaffinity(0))))
    return quick(grid)


def refusing(grid: Grid) -> FakeWorkbench:
    return FakeWorkbench(refuse="model.path=x cannot be used; choose another").at(grid.store)


def broken(grid: Grid) -> FakeWorkbench:
    return FakeWorkbench(broken="soar aesthetic seed 0").at(grid.store)


class Dying(FakeWorkbench):
    """Kills its process at a step of SOAR after its checkpoint, as often as the file says."""

    def train(self, cell: CellConfig, on_step: Callable[[int, str], None]) -> dict[str, float]:
        deaths = Path(self.store.root) / "deaths"

        def dying(step: int, note: str) -> None:
            on_step(step, note)
            left = int(deaths.read_text())
            if cell.label == "soar aesthetic seed 0" and step == 3 and left > 0:
                deaths.write_text(str(left - 1))
                os.kill(os.getpid(), signal.SIGKILL)

        return super().train(cell, dying)


def dying(grid: Grid) -> FakeWorkbench:
    return Dying().at(grid.store)


class Hanging(FakeWorkbench):
    """Never comes back from SOAR's training."""

    def train(self, cell: CellConfig, on_step: Callable[[int, str], None]) -> dict[str, float]:
        if cell.label == "soar aesthetic seed 0":
            time.sleep(600)
        return super().train(cell, on_step)


def hanging(grid: Grid) -> FakeWorkbench:
    return Hanging().at(grid.store)


def slow(grid: Grid) -> FakeWorkbench:
    return FakeWorkbench(delay=0.5).at(grid.store)
