"""What a grid keeps of a cell: which artefacts it names, how far it is, and its MLflow run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from soarbench.common.errors import UserError
from soarbench.common.files import read_record, write_record
from soarbench.common.strict import build
from soarbench.store.artefact import refuse_other_version

State = Literal["running", "finished", "failed"]


#: Files of a cell.
DESCRIPTION, STATUS = "cell.json", "status.json"


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a cell is.

    Attributes:
        state: ``running`` from the first touch on, also while no process works on it.
        logged: Digest of the description that was logged.
        diagnosed: Digest of the probes that were logged.
    """

    state: State = "running"
    reason: str | None = None
    # Unix time, which MLflow's metrics carry as theirs: logging twice is then logging once.
    created_at: float = field(default_factory=time.time)
    mlflow_run_id: str | None = None
    logged: str | None = None
    diagnosed: str | None = None


@dataclass(frozen=True)
class CellRecord:
    """The folder of a cell in its grid: names and state, no results."""

    root: Path

    @property
    def error_path(self) -> Path:
        """Traceback of the last failure."""
        return self.root / "error.txt"

    @property
    def _status_path(self) -> Path:
        return self.root / STATUS

    def description(self) -> dict[str, object]:
        """See ``grid.description``; ``UserError`` where it is damaged or of another version."""
        path = self.root / DESCRIPTION
        values = read_record(path)
        if values is None:
            raise UserError(f"{path} is missing; give the command of the run again")
        refuse_other_version(path, values)
        return values

    def describe(self, description: Mapping[str, object]) -> None:
        """Write the description, and a first status unless there is one."""
        path = self.root / DESCRIPTION
        if read_record(path) != description:
            write_record(path, description)
        if self.status() is None:
            self.update_status()

    def status(self) -> Status | None:
        """The stored status, None before the first touch; ``UserError`` where it is damaged."""
        values = read_record(self._status_path)
        return None if values is None else build(Status, values, str(self._status_path))

    def update_status(self, **changes: object) -> None:
        """Change some fields of the stored status, or of a first one."""
        status = dataclasses.replace(self.status() or Status(), **changes)  # type: ignore[arg-type]
        write_record(self._status_path, dataclasses.asdict(status))
