"""Tells MLflow of launches and cells, and never stops a run because MLflow is away."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from soarbench import __version__
from soarbench.common.errors import NotDelivered, TrackerAway, UserError, without_passwords
from soarbench.common.provenance import git_commit
from soarbench.config.run import TrackingConfig
from soarbench.tracking.launch import Launch, RunState, last_launch

if TYPE_CHECKING:
    from soarbench.store.cells import Cell
    from soarbench.tracking.runs import MlflowRuns

T = TypeVar("T")
#: Seconds without a try after one that failed: each may take 20 s, and cells must not wait for
#: them again and again.
_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 900.0
#: Seconds after which what failed may be tried again by those who cannot wait for the pause's end.
_JUST_NOW = 5.0


class Tracker:
    """Keeps a launch and its cells; this one keeps nothing: ``tracking=none``.

    What begins with ``log_`` raises ``NotDelivered`` where it is to be logged again later.
    """

    def start_launch(self, name: str, tags: Mapping[str, str]) -> None:
        """Begin a parent run, shown under a name; never raises for a tracker's reason.

        The tag ``folder`` tells whose runs these are; ``command`` is shown as their source.
        """

    def end_launch(self, state: RunState) -> None:
        """End the parent run; as ``start_launch``."""

    def log_report(self, folder: Path) -> None:
        """Keep a report's tables and pictures with the launch; as ``start_launch``."""

    def log_cell(self, cell: Cell, digest: str) -> str | None:
        """Log a finished cell from its files, and the digest of what it is; its run id."""

    def log_diagnostics(self, cell: Cell, digest: str) -> None:
        """Add to a finished cell's run what was measured of it."""

    def log_failure(self, cell: Cell, reason: str) -> str | None:
        """Record that a cell failed, and why; its run id."""

    def mark_failed(self, cell: Cell, reason: str) -> str | None:
        """As ``log_failure``, but never raises for a tracker's reason; the run id if known."""
        try:
            return self.log_failure(cell, reason)
        except NotDelivered:
            return cell.mlflow_run_id

    def known(self) -> Mapping[str, Mapping[str, str]] | None:
        """Tags of the runs of this folder by cell id: what was delivered; None: to nobody.

        ``logged`` and ``diagnosed`` are the digests, ``reason`` is that of a failure.
        """

    def settle(self) -> None:
        """Log what is left of the last launch, and register; ``NotDelivered`` as above."""


class NoTracker(Tracker):
    """Keeps nothing."""


class Delivery(Tracker):
    """MLflow, as far as it answers.

    An experiment is a grid, a parent run a launch, a child run a cell. After a try that failed
    nothing is tried for a while, and all that is not delivered is found in the store later.

    Args:
        config: Where MLflow is.
        folder: Of the grid, held by this process: ``OUTPUT_DIR/grids/NAME``.
        say: Is given one line when MLflow goes away.
        clock: Seconds.

    Raises:
        UserError: The address can never work.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        say: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._folder, self._say, self._clock = config, folder, say, clock
        self._runs: MlflowRuns | None = None
        self._launch: Launch | None = None
        self._pause, self._next_try, self._failed_at = _FIRST_PAUSE, 0.0, -math.inf
        #: Why MLflow cannot be used now, in one line; None while it can.
        self.problem: str | None = None
        # Cells are logged by one thread, failures noted by another.
        self._lock = threading.RLock()
        with contextlib.suppress(TrackerAway):
            self._attempt(lambda _: None)
        self._has_begun = True

    _has_begun = False

    def start_launch(self, name: str, tags: Mapping[str, str]) -> None:
        """See ``Tracker``."""
        before = last_launch(self._folder)
        # Its commit, whenever and by whichever it is delivered.
        shown = {key: without_passwords(value) for key, value in tags.items()}
        self._launch = Launch(name=name, tags={**shown, "git_commit": git_commit()})
        self._launch.save(self._folder)
        self._try_launch(before)

    def end_launch(self, state: RunState) -> None:
        """See ``Tracker``."""
        if self._launch is not None:
            self._launch = self._launch.ended(state)
            self._launch.save(self._folder)
            self._try_launch()

    def log_report(self, folder: Path) -> None:
        """See ``Tracker``."""
        if self._launch is not None:
            self._launch = self._launch.reported(folder)
            self._launch.save(self._folder)
            self._try_launch()

    def _try_launch(self, before: Launch | None = None) -> None:
        with contextlib.suppress(NotDelivered):
            self._attempt(lambda runs: runs.log_launch(self._any_launch(), before))

    def log_cell(self, cell: Cell, digest: str) -> str | None:
        """See ``Tracker``."""
        return self._attempt(lambda runs: runs.log_cell(cell, digest, self._any_launch()))

    def log_diagnostics(self, cell: Cell, digest: str) -> None:
        """See ``Tracker``."""
        self._attempt(lambda runs: runs.log_diagnostics(cell, digest, self._any_launch()))

    def log_failure(self, cell: Cell, reason: str) -> str | None:
        """See ``Tracker``."""
        return self._attempt(lambda runs: runs.log_failure(cell, reason, self._any_launch()))

    def known(self) -> Mapping[str, Mapping[str, str]]:
        """See ``Tracker``; tried in a pause as well, unless that has only just begun."""
        with self._lock:
            if self._clock() - self._failed_at > _JUST_NOW:
                self._next_try = 0.0
            return self._attempt(lambda runs: runs.known())

    def settle(self) -> None:
        """See ``Tracker``."""
        launch = self._launch or last_launch(self._folder)
        if launch is not None:
            self._attempt(lambda runs: runs.log_launch(launch))
        name = self._config.register
        if name is not None:
            self._attempt(lambda runs: runs.register(name))

    def _any_launch(self) -> Launch:
        """This process's launch, or the last one, whose cells were not all delivered, or a new."""
        if self._launch is None:
            self._launch = last_launch(self._folder)
        if self._launch is None:
            # Of a folder that was filled without a tracker.
            tags = {"folder": str(self._folder.resolve()), "soarbench": __version__}
            name = f"delivered {datetime.now().astimezone():%Y-%m-%d %H:%M}"
            self._launch = Launch(name=name, tags=tags).ended("FINISHED")
            self._launch.save(self._folder)
        return self._launch

    def _attempt(self, action: Callable[[MlflowRuns], T]) -> T:
        with self._lock:
            if self._clock() < self._next_try:
                raise TrackerAway(self.problem)
            try:
                value = action(self._opened())
            except NotDelivered as error:
                # Opened anew the next time: what went away may come back as another database.
                self._runs = None
                self._note(error)
                raise
            self._pause, self._next_try, self.problem = _FIRST_PAUSE, 0.0, None
            return value

    def _opened(self) -> MlflowRuns:
        if self._runs is None:
            # MLflow takes seconds to import.
            from soarbench.tracking.runs import MlflowRuns

            try:
                self._runs = MlflowRuns(self._config, self._folder)
            except UserError as error:
                # Of the start it is a mistake that somebody can mend; later it must stop nothing.
                if isinstance(error, NotDelivered) or not self._has_begun:
                    raise
                raise NotDelivered(str(error)) from error
        return self._runs

    def _note(self, error: NotDelivered) -> None:
        if self.problem is None:
            self._say(f"{error}; the run goes on, and what is not delivered is delivered later")
        self.problem = str(error)
        if isinstance(error, TrackerAway):
            self._failed_at = self._clock()
            self._next_try = self._failed_at + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def open_tracker(config: TrackingConfig, folder: Path, say: Callable[[str], object]) -> Tracker:
    """The configured tracker of a grid's folder."""
    return Delivery(config, folder, say) if config.enabled else NoTracker()
