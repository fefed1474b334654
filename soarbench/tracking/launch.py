"""The launch of a grid, kept in its folder until MLflow has it, and for a database that is lost."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from soarbench.common.files import read_passing, write_json
from soarbench.common.strict import build

RunState = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What MLflow's parent run is made of.

    Attributes:
        name: That it is shown under.
        tags: ``folder`` tells whose runs these are; ``command`` is shown as their source.
        started_at: Unix time; so is ``ended_at``.
        report: Folder of the report that belongs to it.
    """

    name: str
    tags: Mapping[str, str]
    launch_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: float = field(default_factory=time.time)
    state: RunState = "RUNNING"
    ended_at: float | None = None
    report: str | None = None

    def ended(self, state: RunState) -> Launch:
        """The same at its end."""
        return dataclasses.replace(self, state=state, ended_at=time.time())

    def reported(self, report: Path) -> Launch:
        """The same with a report."""
        return dataclasses.replace(self, report=str(report.resolve()))

    def save(self, folder: Path) -> None:
        """Keep it in a grid's folder, as the last one."""
        write_json(folder / "launch.json", dataclasses.asdict(self))


def last_launch(folder: Path) -> Launch | None:
    """The last launch of a grid's folder; None before the first, or if damaged.

    The folder must be held, so that one which seems to run was killed.
    """
    path = folder / "launch.json"
    values = read_passing(path)
    if values is None:
        return None
    launch = build(Launch, values, str(path))
    return launch.ended("KILLED") if launch.state == "RUNNING" else launch
