"""What a launcher is: it brings jobs to their end, and holds no state that the store does not."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from soarbench.common.progress import GridProgress, Key
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Context, Job, Workbench
from soarbench.jobs.prepare import Prepare

Outcome = tuple[Job, Exception | None]
"""A job that ended, and what it failed with."""
MakeWorkbench = Callable[[Grid], Workbench]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a launcher is given.

    Attributes:
        make_workbench: Makes what a process works with; workers make their own.
        seconds: Estimates by job.
    """

    grid: Grid
    make_workbench: MakeWorkbench
    progress: GridProgress
    seconds: Mapping[Key, float]


class Launcher(abc.ABC):
    """Runs jobs; no result depends on which one does."""

    def open(self, launch: Launch, jobs: Sequence[Job]) -> Workbench | None:
        """Try all that jobs depend on, so that faults show before they start (``UserError``).

        ``jobs`` are those that load something, maybe none. -> What jobs of this process work with;
        None where workers have their own.
        """
        workbench = launch.make_workbench(launch.grid)
        if jobs:
            prepare = Prepare(cell=jobs[0].cell, jobs=tuple(jobs))
            store, progress = launch.grid.store, launch.progress
            prepare.run(Context(store=store, workbench=workbench, tracker=None, progress=progress))
        return workbench

    @abc.abstractmethod
    def run(self, jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
        """Run jobs, each after those that it waits for; yields each at its end, well or not."""

    def close(self) -> None:  # noqa: B027 (most start nothing)
        """End what was started, however the run ended."""


class Submitter(abc.ABC):
    """Hands a whole run to a queue, in which the same command is run later."""

    @abc.abstractmethod
    def script(self, grid: Grid) -> str:
        """What would be submitted."""

    @abc.abstractmethod
    def submit(self, grid: Grid) -> str:
        """Submit it. -> A line for people. ``UserError`` where the queue does not take it."""
