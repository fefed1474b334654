"""A launcher: any order will do in which everything waits for what it is made from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.config.run import LauncherConfig
from soarbench.jobs.base import Context, Job
from soarbench.jobs.graph import waiting_on
from soarbench.launchers.base import Launcher, Outcome
from soarbench.launchers.local import run_jobs


@dataclass(frozen=True, kw_only=True)
class ShuffledConfig(LauncherConfig):
    """Runs jobs in this process, in an order drawn at random.

    Attributes:
        seed: Of the order.
    """

    kind: ClassVar[str] = "shuffled"

    seed: int = 0

    @override
    def build(self) -> Launcher:
        return Shuffled(self.seed)


class Shuffled(Launcher):
    """Draws the next job among those that wait for nothing.

    Args:
        seed: Of the order.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def run(self, jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
        # Running one, and what becomes of those that wait for one that failed, is as everywhere.
        return run_jobs(self.ordered(jobs), context)

    def ordered(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs in another order."""
        rng, waiting, order = random.Random(self.seed), list(jobs), list[Job]()
        while waiting:
            ready = [job for job in waiting if not waiting_on(job, waiting)]
            job = rng.choice(ready)
            waiting.remove(job)
            order.append(job)
        return order
