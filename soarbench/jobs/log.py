"""Jobs that bring a cell to its end, and tell a tracker of it from stored artefacts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from soarbench.common.errors import NotDelivered
from soarbench.config.run import RatesConfig
from soarbench.grid.addresses import Source
from soarbench.grid.description import cell_record
from soarbench.jobs.base import Context, Job
from soarbench.jobs.delivery import CellLog
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord

if TYPE_CHECKING:
    from soarbench.store.cells import Cell


@dataclass(frozen=True, kw_only=True)
class Log(Job):
    """Brings a cell to its end, and delivers its curves and scores.

    What a tracker does not take is no failure: ``run`` ends well, and ``is_done`` stays false.

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

    def record(self, store: Store) -> CellRecord:
        """Where the grid keeps how far the cell is."""
        return cell_record(store, self.description)

    def described(self, store: Store) -> Cell:
        """The cell as it is stored."""
        return self.log(store).cell()

    def log(self, store: Store) -> CellLog:
        """What is delivered."""
        return CellLog(store=store, description=self.description)

    def is_finished(self, store: Store) -> bool:
        """Whether the cell came to its end, delivered or not."""
        return self.log(store).is_finished

    def is_done(self, store: Store) -> bool:
        """Whether the cell came to its end, and this very description was delivered."""
        log = self.log(store)
        status = log.record.status()
        return status is not None and status.state == "finished" and status.logged == log.digest

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
        """Note that the cell is finished, and deliver it."""
        log = self.log(context.store)
        with context.progress.stage(self.key, f"{self.cell.label}: {self.kind}", 1):
            # Read before it is called finished: of a damaged cell the reason is known then.
            log.cell()
            # Shards end one by one, and another launch may have divided these images otherwise.
            log.tables.require_scores()
            # Before the tracker is asked: a cell is finished when its files are.
            log.record.update_status(state="finished", reason=None)
            log.record.error_path.unlink(missing_ok=True)
            assert context.tracker is not None
            # The tracker says why, once, and what it did not take is left to do.
            with contextlib.suppress(NotDelivered):
                log.deliver(context.tracker)


@dataclass(frozen=True, kw_only=True)
class LogDiagnostics(Log):
    """Adds to a finished cell's run what was measured of it besides its scores."""

    kind: ClassVar[str] = "log diagnostics"

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The probes, and the run that they are added to."""
        return (*self.parts, self.address)

    def is_done(self, store: Store) -> bool:
        """Whether these probes were delivered."""
        log = self.log(store)
        return log.status.diagnosed == log.digest

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        # Too short to matter.
        return 0.0

    def run(self, context: Context) -> None:
        """Deliver the probes."""
        with (
            context.progress.stage(self.key, f"{self.cell.label}: {self.kind}", 1),
            contextlib.suppress(NotDelivered),
        ):
            assert context.tracker is not None
            log = self.log(context.store)
            log.tables.require_scores(samplers=True)
            log.deliver_probes(context.tracker)
