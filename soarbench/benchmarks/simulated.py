"""A cluster of pretended GPUs on which time passes at once: a launcher's backend for jobs."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from typing_extensions import override

from soarbench.common.progress import Key, Update
from soarbench.jobs.base import Job
from soarbench.launchers.backend import Backend, Ended, Event, Lost, Node, Place, Worker
from soarbench.launchers.tasks import num_shared

#: Whose events are the cluster's own.
_NOBODY = -1


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What it costs that a worker has not loaded what a job needs.

    Attributes:
        all_seconds: Where it has nothing of it: a process, libraries, and weights or a judge.
        part_seconds: Where it has the base: a snapshot's weights are put onto it.
    """

    all_seconds: float = 0.0
    part_seconds: float = 0.0

    def seconds(self, loads: tuple[object, ...], loaded: tuple[object, ...]) -> float:
        """Of a worker that has loaded something else, or nothing."""
        if not loads or loads == loaded:
            return 0.0
        return self.part_seconds if num_shared(loads, loaded) > 1 else self.all_seconds


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A job in a worker, from ``start`` to ``end``; what it loaded comes first."""

    job: Job
    place: Place
    start: float
    end: float
    loading: float

    @property
    def gpus(self) -> float:
        """GPUs that it had; a part counts as such."""
        return sum(share.gpu_share * len(share.gpus) for share in self.place)

    def gpu_seconds(self, until: float = math.inf) -> float:
        """GPU time that it took up to a moment."""
        return self.gpus * max(min(self.end, until) - self.start, 0.0)


@dataclass(eq=False)
class _Simulated:
    place: Place
    loaded: tuple[object, ...] = ()


class SimulatedCluster(Backend):
    """Workers that do nothing for as long as a job would take.

    ``seconds`` are of a job on what it asks for, without loading. Of a training the steps of
    ``marks`` are told when they are reached, as its snapshots are there then.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        seconds: Callable[[Job], float],
        *,
        loading: Loading | None = None,
        marks: Callable[[Job], Sequence[int]] = lambda _: (),
    ) -> None:
        self.nodes_now = list(nodes)
        self.intervals: list[Interval] = []
        self._seconds, self._loading, self._marks = seconds, loading or Loading(), marks
        self._clock, self._numbers = 0.0, itertools.count()
        self._workers: dict[Worker, _Simulated] = {}
        self._agenda: list[tuple[float, int, Worker, Callable[[], Event | None]]] = []

    @override
    def nodes(self) -> Sequence[Node]:
        return self.nodes_now

    @override
    def now(self) -> float:
        return self._clock

    @override
    def start(self, place: Place) -> Worker:
        worker = next(self._numbers)
        self._workers[worker] = _Simulated(place)
        return worker

    @override
    def submit(self, worker: Worker, job: Job) -> None:
        state, seconds = self._workers[worker], self._seconds(job)
        loads = job.needs().loads
        loading = self._loading.seconds(loads, state.loaded)
        state.loaded = loads or state.loaded
        begin, end = self._clock + loading, self._clock + loading + seconds
        marks = self._marks(job)
        for step in marks:
            update = _update(job.key, step, marks[-1])
            self._plan(begin + seconds * step / marks[-1], worker, functools.partial(_same, update))
        interval = Interval(job=job, place=state.place, start=self._clock, end=end, loading=loading)

        def finish() -> Event:
            self.intervals.append(interval)
            return Ended(worker=worker, failure=self.failure(job))

        self._plan(end, worker, finish)

    def failure(self, _: Job) -> Exception | None:
        """What a job fails with at its end."""
        return None

    @override
    def stop(self, worker: Worker) -> None:
        del self._workers[worker]

    def lose(self, worker: Worker, why: str) -> Event | None:
        """A worker dies now."""
        return Lost(worker=worker, why=why) if self._workers.pop(worker, None) else None

    def at(self, moment: float, act: Callable[[], Event | None]) -> None:
        """Have something happen to the cluster at a moment."""
        self._plan(moment, _NOBODY, act)

    def _plan(self, moment: float, worker: Worker, event: Callable[[], Event | None]) -> None:
        if moment < math.inf:
            heapq.heappush(self._agenda, (moment, next(self._numbers), worker, event))

    @override
    def events(self, seconds: float) -> Iterator[Event]:
        if not self._agenda:
            self._clock += seconds
            return
        self._clock = self._agenda[0][0]
        # All of one moment, so that what ends together is followed by what fits best.
        while self._agenda and self._agenda[0][0] <= self._clock:
            _, _, worker, event = heapq.heappop(self._agenda)
            # Nothing comes of a worker that was ended meanwhile.
            if worker in self._workers or worker == _NOBODY:
                result = event()
                if result is not None:
                    yield result


def _update(key: Key, step: int, total: int) -> Update:
    return Update(key=key, description=key[1], total=total, position=step, skipped=0)


def _same(event: Event) -> Event:
    return event
