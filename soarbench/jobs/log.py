"""Jobs that log a cell to MLflow from stored artefacts, and so bring it to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from soarbench.config.run import RatesConfig
from soarbench.grid.addresses import Source, digest
from soarbench.grid.description import cell_record
from soarbench.jobs.base import Context, Job
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord

if TYPE_CHECKING:
    from soarbench.store.cells import Cell


@dataclass(frozen=True, kw_only=True)
class Log(Job):
    """Logs a cell's curves and scores; the cell is finished then.

    Attributes:
        description: Of the cell (``soarbench.grid.description``).
        parts: Addresses of what it logs.
    """

    kind: ClassVar[str] = "log"
    runs_here: ClassVar[bool] = True
    description: Mapping[str, object]
    parts: tuple[str, ...]

    @property
    def source(self) -> Source:
        """The cell's record."""
        return Source(
            address=f"grids/{self.cell.grid}/{self.description['cell_id']}",
            content=self.description,
            inputs=self.parts,
        )

    @property
    def digest(self) -> str:
        """Of what is logged: another judge or image makes it another."""
        # The whole configuration is left out: other words or a larger batch change no number.
        names = {key: value for key, value in self.description.items() if key != "config"}
        return digest({"description": names, "parts": self.parts})

    def record(self, store: Store) -> CellRecord:
        """Where the grid keeps how far the cell is."""
        return cell_record(store, self.description)

    def described(self, store: Store) -> Cell:
        """The cell as it is stored."""
        # A dry run lists this job, and needs no statistics.
        from soarbench.store.cells import stored_cell

        return stored_cell(store, self.description, self.record(store))

    def is_done(self, store: Store) -> bool:
        """Whether this very description was logged."""
        status = self.record(store).status()
        return status is not None and status.state == "finished" and status.logged == self.digest

    def state(self, store: Store) -> str:
        """As of any job."""
        if self.is_done(store):
            return "done"
        # Asked of the record: an artefact of its own the log has not. What was finished by another
        # description is logged again.
        status = self.record(store).status()
        states: dict[str, str] = {"failed": "failed", "running": "begun"}
        return "to do" if status is None else states.get(status.state, "to do")

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        return rates.cell_seconds

    def run(self, context: Context) -> None:
        """Log, and note that it was done."""
        record = self.record(context.store)
        with context.progress.stage(self.key, f"{self.cell.label}: {self.kind}", 1):
            assert context.tracker is not None
            run_id = context.tracker.log_cell(self.described(context.store))
        record.update_status(
            state="finished", reason=None, mlflow_run_id=run_id, logged=self.digest
        )
        record.error_path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class LogDiagnostics(Log):
    """Adds to a finished cell's run what was measured of it besides its scores."""

    kind: ClassVar[str] = "log diagnostics"

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The probes, and the run that they are added to."""
        return (*self.parts, self.address)

    def is_done(self, store: Store) -> bool:
        """Whether these probes were logged."""
        status = self.record(store).status()
        return status is not None and status.diagnosed == self.digest

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        # Too short to matter.
        return 0.0

    def run(self, context: Context) -> None:
        """Log, and note that it was done."""
        with context.progress.stage(self.key, f"{self.cell.label}: {self.kind}", 1):
            assert context.tracker is not None
            context.tracker.log_diagnostics(self.described(context.store))
        self.record(context.store).update_status(diagnosed=self.digest)
