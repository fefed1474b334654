"""What a tracker is told of cells, at once or when it is back: all is read from the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soarbench.common.errors import NotDelivered, TrackerAway, UserError
from soarbench.grid.addresses import digest
from soarbench.grid.description import cell_record
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord, Status
from soarbench.store.tables import ProbeFolder, StoredTables, Table

if TYPE_CHECKING:
    from soarbench.store.cells import Cell
    from soarbench.tracking.tracker import Tracker

#: Rises when a tracker is told more, or otherwise: what was told before is then told again.
_LAYOUT = 2
Tags = Mapping[str, str]
"""Of a cell's run: what a tracker has of it."""


@dataclass(frozen=True, kw_only=True)
class CellLog:
    """A cell that a tracker is told of, from its description alone.

    Attributes:
        description: Of the cell (``soarbench.grid.description``).
    """

    store: Store
    description: Mapping[str, Any]

    @property
    def cell_id(self) -> str:
        """Names it in its grid."""
        return str(self.description["cell_id"])

    @property
    def digest(self) -> str:
        """Of what is told: another judge or image makes it another."""
        # The whole configuration is left out: other words or a larger batch change no number.
        return digest({"layout": _LAYOUT, "told": self._without("config")})

    def _without(self, *names: str) -> str:
        return digest({k: value for k, value in self.description.items() if k not in names})

    @property
    def record(self) -> CellRecord:
        """Where the grid keeps how far the cell is."""
        return cell_record(self.store, self.description)

    @property
    def status(self) -> Status:
        """As stored, or that of an untouched cell."""
        return self.record.status() or Status()

    @property
    def is_finished(self) -> bool:
        """Whether the cell was brought to the end that this description names."""
        if self.status.state != "finished":
            return False
        stored = CellLog(store=self.store, description=self.record.description())
        # Samplers that are asked for afterwards belong to diagnostics, as all probes do.
        names = ("config", "robustness")
        return stored._without(*names) == self._without(*names)

    @property
    def is_delivered(self) -> bool:
        """Whether the finished cell, with its probes, was delivered."""
        status = self.status
        is_probed = status.diagnosed == self.digest or not self._is_probed
        return status.state == "finished" and status.logged == self.digest and is_probed

    @property
    def _is_probed(self) -> bool:
        """Whether all was measured that looks for signs of gaming."""
        suites = self.description["suites"].values()
        statistics = [address for suite in suites for address in suite["statistics"].values()]
        tables: list[tuple[str, Table]] = [(address, "images") for address in statistics]
        measures = [steps for suite in suites for steps in suite.get("diversity", {}).values()]
        tables += [(address, "diversity") for steps in measures for address in steps.values()]
        tables += [(address, "norms") for address in self.description["paths"].values()]
        folders = ((ProbeFolder(self.store.artefact(one).root), name) for one, name in tables)
        return all(folder.path(name).is_file() for folder, name in folders)

    @property
    def tables(self) -> StoredTables:
        """What is stored of it."""
        return StoredTables(store=self.store, description=self.description)

    def cell(self) -> Cell:
        """The cell as it is stored."""
        # A dry run lists jobs, and needs no statistics.
        from soarbench.store.cells import stored_cell

        return stored_cell(self.store, self.description, self.record)

    def deliver(self, tracker: Tracker) -> None:
        """Tell of curves and scores; ``NotDelivered`` where the tracker does not take them."""
        run_id = tracker.log_cell(self.cell(), self.digest)
        self.record.update_status(mlflow_run_id=run_id, logged=self.digest)

    def deliver_probes(self, tracker: Tracker) -> None:
        """Tell of the probes; as ``deliver``."""
        tracker.log_diagnostics(self.cell(), self.digest)
        self.record.update_status(diagnosed=self.digest)

    def waive(self) -> None:
        """Note as delivered what nobody is to be told."""
        # Probes alone may be of another description, to which more samplers were added since.
        if self.status.state == "finished" and self.status.logged != self.digest:
            self.record.update_status(logged=self.digest, diagnosed=self.digest)

    def recall(self, tags: Tags) -> None:
        """Note as not delivered what the tracker does not have, or no longer."""
        status = self.status
        lost: dict[str, object] = {}
        if status.logged is not None and status.logged != tags.get("logged"):
            lost["logged"] = None
        if status.diagnosed is not None and status.diagnosed != tags.get("diagnosed"):
            lost["diagnosed"] = None
        if lost:
            self.record.update_status(**lost)

    def deliver_missing(self, tracker: Tracker, tags: Tags) -> bool:
        """Tell what the tracker does not have. -> Whether there was any; as ``deliver``."""
        status = self.status
        if status.state == "failed" and status.reason != tags.get("reason"):
            run_id = tracker.log_failure(self.cell(), status.reason or "unknown")
            self.record.update_status(mlflow_run_id=run_id)
            return True
        if status.state != "finished":
            return False
        is_logged = tags.get("logged") == self.digest
        if not is_logged:
            self.deliver(tracker)
        is_diagnosed = tags.get("diagnosed") == self.digest or not self._is_probed
        if not is_diagnosed:
            self.deliver_probes(tracker)
        return not (is_logged and is_diagnosed)


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What became of what was left to deliver.

    Attributes:
        delivered: Number of cells of which something was.
        left: Number of cells of which something still is not.
        problems: Why, a line each; none where nothing is left.
    """

    delivered: int = 0
    left: int = 0
    problems: tuple[str, ...] = ()


def deliver_rest(
    store: Store, grid: str, tracker: Tracker, cell_ids: Collection[str] | None = None
) -> Rest:
    """Deliver what the tracker does not have of a grid's finished and failed cells.

    The tracker is asked what it has, since its database may have been lost, or be another one.
    ``cell_ids`` chooses among the cells in the grid's folder; None takes all.
    """
    problems: list[str] = []
    logs = list(_stored(store, grid, cell_ids, problems))
    settled: set[str] = set()
    delivered = 0
    try:
        known = tracker.known()
        if known is None:
            for log in logs:
                log.waive()
            return Rest()
        # All of them first: the tracker may go away before their turn comes.
        for log in logs:
            log.recall(known.get(log.cell_id, {}))
        for log in logs:
            try:
                delivered += log.deliver_missing(tracker, known.get(log.cell_id, {}))
                settled.add(log.cell_id)
            except TrackerAway:
                raise
            # A damaged cell, or one that the tracker refuses, keeps no other waiting.
            except UserError as error:
                problems.append(f"{log.cell_id}: {error}")
        tracker.settle()
    except NotDelivered as error:
        problems.append(str(error))
    left = {log.cell_id for log in logs if not log.is_delivered} - settled
    return Rest(delivered=delivered, left=len(left), problems=tuple(problems))


def _stored(
    store: Store, grid: str, cell_ids: Collection[str] | None, problems: list[str]
) -> Iterator[CellLog]:
    """The cells of a grid's folder that came to an end, well or not."""
    for path in sorted((store.root / "grids" / grid).glob("*/cell.json")):
        record = CellRecord(path.parent)
        if cell_ids is not None and path.parent.name not in cell_ids:
            continue
        try:
            log = CellLog(store=store, description=record.description())
            if log.status.state != "running":
                yield log
        except UserError as error:
            problems.append(str(error))
