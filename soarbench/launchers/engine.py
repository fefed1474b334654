"""Which job runs where, and when: the longest path first, short jobs in the gaps.

Nodes, workers and the clock are a backend's, so that processes of one machine, a Ray cluster and a
simulated one run by the same rules.
"""

from __future__ import annotations

import abc
import bisect
import functools
import heapq
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

from soarbench.common.errors import Damaged, reason
from soarbench.common.progress import Key, Update
from soarbench.jobs.base import Job, Needs
from soarbench.jobs.graph import maker_of

log = logging.getLogger(__name__)

#: A GPU is shared in eighths.
_PARTS = 8
#: How long the engine waits for news before it looks whether something hangs.
_SECONDS_BETWEEN_LOOKS = 1.0
#: Of the jobs that would not end in time, before a job of many GPUs begins, so many are looked at.
_MOST_TOO_LONG = 200
Outcome = tuple[Job, Exception | None]
"""A job that ended, and what it failed with."""
Worker = int
_Answer = Literal["begun", "no place", "too long"]


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
    parts: int = _PARTS
    slots: int = 0

    @property
    def gpu_share(self) -> float:
        """Of each of its GPUs."""
        return self.parts / _PARTS


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
class Task:
    """A job of the grid, what it waits for, and how far it is."""

    job: Job
    index: int
    seconds: float
    needs: Needs
    waits_for: list[Task] = field(default_factory=list)
    dependents: list[Task] = field(default_factory=list)
    is_waiting: bool = True
    is_over: bool = False
    losses: int = 0
    reached: int = -1
    mended: set[str] = field(default_factory=set)

    @functools.cached_property
    def rank(self) -> tuple[float, int]:
        """The longest path first; of equals the one that one process would do first."""
        return -self.path, self.index

    @functools.cached_property
    def path(self) -> float:
        """Seconds from its start to the end of the longest chain that waits for it."""
        return self.seconds + max((task.path for task in self.dependents), default=0.0)

    @property
    def is_ready(self) -> bool:
        """Whether all that it needs is there: of a training the step is enough."""
        step = self.job.step_needed
        return all(
            task.is_over or (step is not None and task.job.kind == "train" and task.reached >= step)
            for task in self.waits_for
        )


@dataclass(eq=False)
class _Work:
    """A worker: where it is, what it has loaded, and what it does."""

    worker: Worker
    place: Place
    loads: tuple[object, ...] = ()
    task: Task | None = None
    since: float = 0.0
    last_sign: float = 0.0

    @functools.cached_property
    def gpus(self) -> list[tuple[str, int]]:
        """Its GPUs, wholly or in part."""
        return [(share.node, gpu) for share in self.place for gpu in share.gpus]


def tasks_of(jobs: Sequence[Job], seconds: Mapping[Key, float]) -> list[Task]:
    """Jobs and what each of them waits for among the others."""
    tasks = [
        Task(job, index, seconds.get(job.key, 0.0), job.needs()) for index, job in enumerate(jobs)
    ]
    makers: dict[str, list[Task]] = {}
    for task in tasks:
        makers.setdefault(task.job.address, []).append(task)
    for task in tasks:
        inputs = [maker for name in task.job.waits_for for maker in makers.get(name, ())]
        inputs += [other for other in makers[task.job.address] if _is_earlier_part(other, task)]
        task.waits_for = [maker for maker in dict.fromkeys(inputs) if maker is not task]
        for maker in task.waits_for:
            maker.dependents.append(task)
    return tasks


class _Queue:
    """Jobs that could begin now, by rank."""

    # By what they ask for: where one finds no place, none of its kind does, and is not looked at.
    def __init__(self) -> None:
        self._lines: dict[tuple[int, float], list[Task]] = {}

    def __iter__(self) -> Iterator[Task]:
        return heapq.merge(*self._lines.values(), key=lambda task: task.rank)

    def add(self, task: Task) -> None:
        """Once more, or for the first time."""
        line = self._lines.setdefault((task.needs.gpus, task.needs.gpu_gb), [])
        place = self._place(line, task)
        if line[place : place + 1] != [task]:
            line.insert(place, task)

    def discard(self, task: Task) -> None:
        """If it is there."""
        line = self._lines.get((task.needs.gpus, task.needs.gpu_gb), [])
        place = self._place(line, task)
        if line[place : place + 1] == [task]:
            del line[place]

    @staticmethod
    def _place(line: list[Task], task: Task) -> int:
        return bisect.bisect_left(line, task.rank, key=lambda one: one.rank)

    def hand_out(self, begin: Callable[[Task], _Answer]) -> None:
        """Offer jobs by rank, and take away those that begin."""
        heads = [(line[0].rank, kind, 0) for kind, line in self._lines.items() if line]
        heapq.heapify(heads)
        num_too_long = 0
        while heads:
            _, kind, place = heapq.heappop(heads)
            line = self._lines[kind]
            answer = begin(line[place])
            if answer == "begun":
                del line[place]
            elif answer == "too long":
                place, num_too_long = place + 1, num_too_long + 1
            if answer != "no place" and num_too_long < _MOST_TOO_LONG and place < len(line):
                heapq.heappush(heads, (line[place].rank, kind, place))


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


def _is_earlier_part(other: Task, task: Task) -> bool:
    """Whether another job works on the part of a suite that comes before a job's."""
    # Which images share a batch depends on what the part before had. Shards of one part are drawn
    # at the same time.
    is_alike = other.index < task.index and other.job.kind == task.job.kind
    return is_alike and getattr(other.job, "suite", None) != getattr(task.job, "suite", None)


class _Room:
    """What of the nodes nobody has."""

    def __init__(self, nodes: Sequence[Node], places: Iterable[Place]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self.parts = {(node.name, gpu): _PARTS for node in nodes for gpu in range(node.gpus)}
        self.slots = Counter({node.name: node.slots for node in nodes})
        for place in places:
            self.take(place)

    def take(self, place: Place, count: int = 1) -> None:
        """Somebody has it now; -1 gives it back."""
        for share in place:
            self.slots[share.node] -= count * share.slots
            for gpu in share.gpus:
                # A node may be gone.
                if (share.node, gpu) in self.parts:
                    self.parts[share.node, gpu] -= count * share.parts

    @property
    def whole(self) -> dict[str, list[int]]:
        """Free GPUs by node."""
        free = {name: list[int]() for name in self._nodes}
        for (name, gpu), parts in self.parts.items():
            if parts == _PARTS:
                free[name].append(gpu)
        return free

    def has(self, place: Place) -> bool:
        """Whether a place is free of jobs."""
        return all(
            self.slots[share.node] >= share.slots
            and all(self.parts.get((share.node, gpu), 0) >= share.parts for gpu in share.gpus)
            for share in place
        )

    def place(self, needs: Needs) -> Place | None:
        """Where a job could run; None as long as it has to wait."""
        if not self.parts or not (needs.gpus or needs.gpu_gb):
            return self._on_cores(1 if self.parts else max(needs.gpus, 1))
        return self._on_gpus(needs.gpus) if needs.gpus else self._on_part(needs.gpu_gb)

    def _on_cores(self, slots: int) -> Place | None:
        name, free = max(self.slots.items(), key=lambda item: item[1], default=("", 0))
        if free < 1:
            return None
        wanted = min(slots, self._nodes[name].slots)
        return (Share(name, slots=wanted),) if free >= wanted else None

    def _on_gpus(self, count: int) -> Place | None:
        free = self.whole
        # A job fits best where the fewest GPUs are free; one of many takes as few nodes as can be.
        roomy = [name for name in free if len(free[name]) >= count]
        if roomy:
            name = min(roomy, key=lambda one: len(free[one]))
            return (Share(name, tuple(free[name][:count])),)
        shares, missing = list[Share](), count
        for name in sorted(free, key=lambda one: -len(free[one])):
            gpus = tuple(free[name][:missing])
            if gpus:
                shares.append(Share(name, gpus))
            missing -= len(gpus)
        return tuple(shares) if missing == 0 else None

    def parts_for(self, gpu_gb: float, name: str) -> int:
        """Eighths of a node's GPU that hold so much."""
        memory = self._nodes[name].gpu_memory_gb
        return min(math.ceil(_PARTS * gpu_gb / memory), _PARTS) if memory else _PARTS

    def _on_part(self, gpu_gb: float) -> Place | None:
        needed = {name: self.parts_for(gpu_gb, name) for name in self._nodes}
        fitting = [(parts, gpu) for gpu, parts in self.parts.items() if parts >= needed[gpu[0]]]
        if not fitting:
            return None
        # Beside others, so that whole ones stay free.
        _, (name, gpu) = min(fitting)
        return (Share(name, (gpu,), needed[name]),)

    def is_fit(self, place: Place, needs: Needs) -> bool:
        """Whether a worker there has what a job asks for, and not more."""
        if not self.parts or not (needs.gpus or needs.gpu_gb):
            slots = 1 if self.parts else max(needs.gpus, 1)
            return not place[0].gpus and place[0].slots == min(
                slots, self._nodes[place[0].node].slots
            )
        parts = _PARTS if needs.gpus else self.parts_for(needs.gpu_gb, place[0].node)
        count = sum(len(share.gpus) for share in place)
        return count == max(needs.gpus, 1) and all(share.parts == parts for share in place)


def _overlap(place: Place, other: Place) -> bool:
    """Whether two places have a GPU, or the cores of a node, in common."""
    return any(
        a.node == b.node and (set(a.gpus) & set(b.gpus) or (a.slots and b.slots))
        for a in place
        for b in other
    )


def num_shared(loads: tuple[object, ...], others: tuple[object, ...]) -> int:
    """How much of what a job loads is loaded."""
    pairs = zip(loads, others, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(loads), len(others)))


class Engine:
    """Brings jobs to their end on the workers of a backend, which stay from one run to the next."""

    def __init__(self, backend: Backend, watcher: Watcher, patience: Patience) -> None:
        self.backend, self.watcher, self.patience = backend, watcher, patience
        self._works: dict[Worker, _Work] = {}
        self._idle: dict[Worker, _Work] = {}
        self._running: dict[Key, _Work] = {}
        self._nodes: Sequence[Node] = ()
        # What running jobs leave, and what idle workers leave of that.
        self._room = self._space = _Room((), ())
        self._queue = _Queue()
        self._tasks: list[Task] = []
        self._num_left = 0
        self._own: dict[Future[None], Task] = {}
        self._own_ready: list[Task] = []
        self._homeless_since: float | None = None
        self._last_look = -math.inf

    def run(
        self, jobs: Sequence[Job], seconds: Mapping[Key, float], here: Callable[[Job], None]
    ) -> Iterator[Outcome]:
        """Run jobs; yields each when it has ended.

        ``here`` runs those that the grid's own process does, in a thread. Estimated ``seconds``
        decide about the order alone.
        """
        self._tasks = tasks_of(jobs, seconds)
        self._num_left = len(self._tasks)
        for task in self._tasks:
            self._offer(task)
        with ThreadPoolExecutor(1, "grid") as desk:
            while self._num_left:
                self._assign(desk, here)
                yield from self._collect()
                self.watcher.tick()

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
            self._room = _Room(nodes, [work.place for work in self._running.values()])
            self._space = _Room(nodes, [work.place for work in self._works.values()])

    def _try(self, task: Task, gap: _Gap) -> _Answer:
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
            if _overlap(place, work.place):
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
        del self._idle[work.worker]
        self._running[task.job.key] = work
        self._homeless_since = None
        self._room.take(work.place)
        self.backend.submit(work.worker, task.job)

    def _ends(self) -> list[float]:
        """When each GPU will be free, by the estimates of what runs; ascending."""
        now, ends = self.backend.now(), dict.fromkeys(self._room.parts, -math.inf)
        for work in self._running.values():
            assert work.task is not None
            # What takes longer than its estimate may end at any moment.
            end = max(work.since + work.task.seconds, now)
            for gpu in work.gpus:
                if end > ends.get(gpu, math.inf):
                    ends[gpu] = end
        return sorted(ends.values())

    def _tell(self) -> None:
        if self._room.parts:
            count = sum(parts < _PARTS for parts in self._room.parts.values())
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
        job = maker_of(damage.address, task.job)
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
