"""Nodes and workers, whoever has them: processes of a machine, a Ray cluster, a simulated one."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soarbench.common.progress import Update
from soarbench.jobs.base import Job

#: A GPU is shared in eighths.
PARTS = 8
Worker = int


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine: its GPUs, and the jobs that its cores do beside them at a time."""

    name: str
    gpus: int = 0
    slots: int = 1
    gpu_memory_gb: float = 0.0


@dataclass(frozen=True)
class Share:
    """A worker's share of a node: eighths of GPUs by their index, or slots of its cores."""

    node: str
    gpus: tuple[int, ...] = ()
    parts: int = PARTS
    slots: int = 0

    @property
    def gpu_share(self) -> float:
        """Of each of its GPUs."""
        return self.parts / PARTS


Place = tuple[Share, ...]
"""What one worker has: of several nodes where a job needs more GPUs than one has."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job ended in its worker, which goes on living."""

    worker: Worker
    failure: Exception | None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A worker died, or its node did."""

    worker: Worker
    why: str


Event = Update | Ended | Lost


class Backend(abc.ABC):
    """Who has nodes and workers."""

    @abc.abstractmethod
    def nodes(self) -> Sequence[Node]:
        """The nodes that are there now."""

    @abc.abstractmethod
    def start(self, place: Place) -> Worker:
        """Begin to start a worker; jobs can be handed to it at once."""

    @abc.abstractmethod
    def submit(self, worker: Worker, job: Job) -> None:
        """Have a worker that is free run a job."""

    @abc.abstractmethod
    def stop(self, worker: Worker) -> None:
        """End a worker at once, whatever it does; no event of it comes afterwards."""

    @abc.abstractmethod
    def events(self, seconds: float) -> Iterator[Event]:
        """What came to pass, waiting for it at most so long."""

    @abc.abstractmethod
    def now(self) -> float:
        """Seconds."""
