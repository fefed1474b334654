"""Which job runs where, and when: the longest path first, short jobs in the gaps.

Nodes, workers and the clock are a backend's, so that processes of one machine, a Ray cluster and a
simulated one run by the same rules.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from soarbench.common.errors import Damaged, reason
from soarbench.common.progress import Key, Update
from soarbench.jobs.base import Job, Needs
from soarbench.jobs.graph import maker_of
from soarbench.launchers.backend import PARTS, Backend, Ended, Lost, Node, Place, Worker
from soarbench.launchers.base import Outcome
from soarbench.launchers.room import Room, overlap
from soarbench.launchers.tasks import Answer, Queue, Task, num_shared, tasks_of

log = logging.getLogger(__name__)

#: How long the engine waits for news before it looks whether something hangs.
_SECONDS_BETWEEN_LOOKS = 1.0


class WorkerLost(RuntimeError):
    """A job's workers died, one after the other."""


class Blocked(RuntimeError):
    """A job whose input could not be made; its cause is what that failed with."""


def blocked(address: str, error: Exception) -> Blocked:
    """What becomes of a job that waits for an artefact that failed."""
    # Whatever waits, directly or not, names the artefact that broke.
    if isinstance(error, Blocked):
        return error
    result = Blocked(f"{address} could not be made: {reason(error)}")
    result.__cause__ = error
    return result


class Watcher(Protocol):
    """Told how the work goes."""

    facts: str

    def follow(self, update: Update) -> None:
        """A job came further."""

    def end(self, key: Key) -> None:
        """A job ended."""

    def forget(self, key: Key) -> None:
        """Nothing more of a job will be done."""

    def tick(self) -> None:
        """Time goes by."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When something is given up.

    Attributes:
        retries: Workers that a job may lose before it counts as failed.
        stall_minutes: Without a sign of life of a job, until its worker is ended.
        start_minutes: Without a node that could run anything that is left.
    """

    retries: int = 3
    stall_minutes: float = 60.0
    start_minutes: float = 10.0


@dataclass(eq=False)
class _Work:
    """A worker: where it is, what it has loaded, and what it does."""

    worker: Worker
    place: Place
    loads: tuple[object, ...] = ()
    task: Task | None = None
    since: float = 0.0
    end: float = 0.0
    last_sign: float = 0.0

    @functools.cached_property
    def gpus(self) -> list[tuple[str, int]]:
        """Its GPUs, wholly or in part."""
        return [(share.node, gpu) for share in self.place for gpu in share.gpus]


@dataclass
class _Gap:
    """Before a job of ``count`` GPUs that waits for them; ``spare`` ones it will not need."""

    count: int = 0
    until: float = math.nan
    spare: int = 0

    def find(self, ends_of: Callable[[], list[float]]) -> None:
        """Look when enough will be free, once."""
        if math.isnan(self.until):
            ends = ends_of()
            enough = len(ends) >= self.count
            self.until = ends[self.count - 1] if enough else math.inf
            self.spare = sum(end <= self.until for end in ends) - self.count


class Engine:
    """Brings jobs to their end on the workers of a backend, which stay from one run to the next."""

    def __init__(self, backend: Backend, watcher: Watcher, patience: Patience) -> None:
        self.backend, self.watcher, self.patience = backend, watcher, patience
        self._works: dict[Worker, _Work] = {}
        self._idle: dict[Worker, _Work] = {}
        self._running: dict[Key, _Work] = {}
        self._nodes: Sequence[Node] = ()
        # What running jobs leave, and what idle workers leave of that.
        self._room = self._space = Room((), ())
        self._queue = Queue()
        self._tasks: list[Task] = []
        self._num_left = 0
        self._maker: Callable[[str, Job], Job | None] = maker_of
        self._own: dict[Future[None], Task] = {}
        self._own_ready: list[Task] = []
        self._homeless_since: float | None = None
        self._last_look = -math.inf

    def run(
        self,
        jobs: Sequence[Job],
        seconds: Mapping[Key, float],
        here: Callable[[Job], None],
        maker: Callable[[str, Job], Job | None] = maker_of,
    ) -> Iterator[Outcome]:
        """Run jobs; yields each when it has ended.

        ``here`` runs those that the grid's own process does, in a thread. Estimated ``seconds``
        decide about the order alone. ``maker`` says what makes an artefact again, by its address
        and the job that found it damaged.
        """
        self._maker = maker
        self._tasks = tasks_of(jobs, seconds)
        self._num_left = len(self._tasks)
        for task in self._tasks:
            self._offer(task)
        with ThreadPoolExecutor(1, "grid") as desk:
            try:
                while self._num_left:
                    self._assign(desk, here)
                    yield from self._collect()
                    self.watcher.tick()
            finally:
                # Interrupted, it would first deliver the logs of all cells that are over.
                desk.shutdown(cancel_futures=True)

    def _offer(self, task: Task) -> None:
        """Have a job begun as soon as there is a place, if it waits for nothing else."""
        if task.is_waiting and task.is_ready:
            if not task.job.runs_here:
                self._queue.add(task)
            elif task not in self._own_ready:
                self._own_ready.append(task)

    # Handing out

    def _assign(self, desk: ThreadPoolExecutor, here: Callable[[Job], None]) -> None:
        for task in sorted(self._own_ready, key=lambda task: task.rank):
            task.is_waiting = False
            self._own[desk.submit(here, task.job)] = task
        self._own_ready.clear()
        self._look_at_nodes()
        gap = _Gap()
        self._queue.hand_out(lambda task: self._try(task, gap))
        self._tell()

    def _look_at_nodes(self) -> None:
        nodes = list(self.backend.nodes())
        if nodes != self._nodes:
            self._nodes = nodes
            self._room = Room(nodes, [work.place for work in self._running.values()])
            self._space = Room(nodes, [work.place for work in self._works.values()])

    def _try(self, task: Task, gap: _Gap) -> Answer:
        """Begin a job, unless it finds no place or would be in the way of one that waits."""
        on_gpu = bool(self._room.parts and (task.needs.gpus or task.needs.gpu_gb))
        is_late, count = False, max(task.needs.gpus, 1)
        if on_gpu and gap.count:
            gap.find(self._ends)
            # Nobody knows how long a job without an estimate is.
            is_late = self.backend.now() + (task.seconds or math.inf) > gap.until
            if is_late and count > gap.spare:
                return "too long"
        if self._room.place(task.needs) is None:
            if on_gpu and task.needs.gpus:
                gap.count = gap.count or task.needs.gpus
            return "no place"
        gap.spare -= count * is_late
        self._begin(self._worker_for(task.needs), task)
        return "begun"

    def _worker_for(self, needs: Needs) -> _Work:
        """A free worker, if possible one that has loaded what is needed."""
        best = max(
            (work for work in self._idle.values() if self._suits(work, needs)),
            key=lambda work: (num_shared(needs.loads, work.loads), -work.since),
            default=None,
        )
        # Another judge, or another base, has the first word in common, and nothing loaded.
        if best is not None and num_shared(needs.loads, best.loads) > 1:
            return best
        # Beside the idle ones, which keep what they have loaded, if there is room.
        place = self._space.place(needs)
        if place is None:
            if best is not None:
                return best
            place = self._room.place(needs)
            assert place is not None
            self._clear(place)
        work = _Work(self.backend.start(place), place)
        self._works[work.worker] = self._idle[work.worker] = work
        self._space.take(place)
        return work

    def _suits(self, work: _Work, needs: Needs) -> bool:
        """Whether an idle worker is where a job could run."""
        return self._room.has(work.place) and self._room.is_fit(work.place, needs)

    def _clear(self, place: Place) -> None:
        """End idle workers in whose way a new one would be: they hold memory."""
        for work in list(self._idle.values()):
            if self._space.has(place):
                return
            if overlap(place, work.place):
                self._forget(work)
                self.backend.stop(work.worker)

    def _forget(self, work: _Work) -> None:
        """A worker is no more."""
        del self._works[work.worker]
        self._space.take(work.place, -1)
        self._idle.pop(work.worker, None)
        if work.task is not None:
            self._rest(work)

    def _rest(self, work: _Work) -> Task:
        """A worker does nothing any more. -> What it did."""
        task, work.task = work.task, None
        assert task is not None
        del self._running[task.job.key]
        self._room.take(work.place, -1)
        return task

    def _begin(self, work: _Work, task: Task) -> None:
        task.is_waiting = False
        work.task, work.loads = task, task.needs.loads
        work.since = work.last_sign = self.backend.now()
        work.end = work.since + task.seconds
        del self._idle[work.worker]
        self._running[task.job.key] = work
        self._homeless_since = None
        self._room.take(work.place)
        self.backend.submit(work.worker, task.job)

    def _ends(self) -> list[float]:
        """When each GPU will be free, by the estimates of what runs; ascending."""
        # What takes longer than its estimate may end at any moment.
        ends = dict.fromkeys(self._room.parts, self.backend.now())
        for work in self._running.values():
            for gpu in work.gpus:
                if work.end > ends.get(gpu, math.inf):
                    ends[gpu] = work.end
        return sorted(ends.values())

    def _tell(self) -> None:
        if self._room.parts:
            count = sum(parts < PARTS for parts in self._room.parts.values())
            self.watcher.facts = f"{count} of {len(self._room.parts)} GPUs busy"
        else:
            slots = sum(node.slots for node in self._nodes)
            self.watcher.facts = f"{len(self._running)} of {slots} workers busy"

    # What comes back

    def _collect(self) -> Iterator[Outcome]:
        for event in self.backend.events(_SECONDS_BETWEEN_LOOKS):
            if isinstance(event, Update):
                self._follow(event)
            elif isinstance(event, Ended):
                yield from self._ended(event)
            else:
                yield from self._lost(event)
        for future in [future for future in self._own if future.done()]:
            task, error = self._own.pop(future), future.exception()
            # An interruption, or the end of the interpreter, is nobody's outcome.
            if error is not None and not isinstance(error, Exception):
                raise error
            yield from self._mended_or_over(task, error)
        yield from self._hanging()

    def _follow(self, update: Update) -> None:
        work = self._running.get(update.key)
        # Of a worker that was ended meanwhile.
        if work is None or work.task is None:
            return
        task = work.task
        work.last_sign = self.backend.now()
        self.watcher.follow(update)
        # A training that was begun again is not as far as it was, and its snapshots are there.
        if update.position > task.reached:
            task.reached = update.position
            for other in task.dependents:
                self._offer(other)

    def _ended(self, event: Ended) -> Iterator[Outcome]:
        work = self._works[event.worker]
        self._idle[work.worker] = work
        yield from self._mended_or_over(self._rest(work), event.failure)

    def _lost(self, event: Lost) -> Iterator[Outcome]:
        work = self._works.get(event.worker)
        if work is None:
            return
        task = work.task
        self._forget(work)
        if task is None:
            return
        task.losses += 1
        self.watcher.end(task.job.key)
        if task.losses > self.patience.retries:
            text = f"lost {task.losses} workers (launcher.retries={self.patience.retries}), the "
            yield from self._over(task, WorkerLost(f"{text}last one: {event.why}"))
            return
        log.warning("%s: %s; begun again", _name(task.job), event.why)
        task.is_waiting = True
        self._offer(task)

    def _mended_or_over(self, task: Task, failure: Exception | None) -> Iterator[Outcome]:
        """A job's end, unless what it read is damaged: that is made again, and then the job."""
        mender = self._mender(task, failure) if isinstance(failure, Damaged) else None
        if mender is None:
            yield from self._over(task, failure)
            return
        log.warning("%s; made again", failure)
        self.watcher.end(task.job.key)
        task.waits_for.append(mender)
        mender.dependents.append(task)
        task.is_waiting = True
        self._offer(mender)

    def _mender(self, task: Task, damage: Damaged) -> Task | None:
        """What makes a damaged artefact again; None where nothing can, or it did."""
        job = self._maker(damage.address, task.job)
        if job is None or damage.address in task.mended:
            return None
        task.mended.add(damage.address)
        for other in self._tasks:
            is_alike = other.job.address == job.address and other.job.kind == job.kind
            if is_alike and (other.is_waiting or other.job.key in self._running):
                return other
        mender = Task(job, task.index, 0.0, job.needs())
        self._tasks.append(mender)
        self._num_left += 1
        return mender

    def _over(self, task: Task, failure: Exception | None) -> Iterator[Outcome]:
        """A job's end, and that of all that can now never begin."""
        task.is_over, task.is_waiting = failure is None, False
        self._num_left -= 1
        self.watcher.end(task.job.key)
        if failure is None:
            for other in task.dependents:
                self._offer(other)
            yield task.job, None
            return
        # Or its seconds would stay in what is left of the grid.
        self.watcher.forget(task.job.key)
        yield task.job, failure
        for other in task.dependents:
            # One that runs already (on an early step) says itself how it ends.
            if other.is_waiting:
                self._queue.discard(other)
                yield from self._over(other, blocked(task.job.address, failure))

    def _hanging(self) -> Iterator[Outcome]:
        """End workers that give no sign of life, and a grid that has no node to run on."""
        now, limit = self.backend.now(), 60 * self.patience.stall_minutes
        # Not at every event: there may be thousands of workers.
        if now - self._last_look > limit / 60:
            self._last_look = now
            for work in [w for w in self._running.values() if now - w.last_sign > limit]:
                self.backend.stop(work.worker)
                minutes = self.patience.stall_minutes
                why = f"no progress for {minutes:g} minutes (launcher.stall_minutes)"
                yield from self._lost(Lost(worker=work.worker, why=why))
        first = next(iter(self._queue), None)
        if self._running or self._own or first is None:
            self._homeless_since = None
        elif self._homeless_since is None:
            self._homeless_since = now
        elif now - self._homeless_since > 60 * self.patience.start_minutes:
            minutes = self.patience.start_minutes
            self._queue.discard(first)
            text = f"no node could run it for {minutes:g} minutes (launcher.start_minutes)"
            yield from self._over(first, WorkerLost(text))


def _name(job: Job) -> str:
    return f"{job.cell.label}: {job.kind}"
