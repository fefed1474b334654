"""What a launcher is: it brings jobs to their end, and holds no state that the store does not."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence

from soarbench.grid.expand import Grid
from soarbench.jobs.base import Context, Job

Outcome = tuple[Job, Exception | None]
"""A job that ended, and what it failed with."""


class Launcher(abc.ABC):
    """Runs jobs; no result depends on which one does."""

    @abc.abstractmethod
    def run(self, jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
        """Run jobs, each after those that it waits for; yields each at its end, well or not."""


class Submitter(abc.ABC):
    """Hands a whole run to a queue, in which the same command is run later."""

    @abc.abstractmethod
    def script(self, grid: Grid) -> str:
        """What would be submitted."""

    @abc.abstractmethod
    def submit(self, grid: Grid) -> str:
        """Submit it. -> A line for people. ``UserError`` where the queue does not take it."""
