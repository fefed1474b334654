"""Which job runs where, and when: the longest path first, short jobs in the gaps.

Nodes, workers and the clock are a backend's, so that processes of one machine, a Ray cluster and a
simulated one run by the same rules.
"""

from __future__ import annotations

import abc
import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from soarbench.common.errors import reason
from soarbench.common.progress import Key, Update
from soarbench.jobs.base import Job, Needs

log = logging.getLogger(__name__)

#: A GPU is shared in eighths.
_PARTS = 8
#: How long the engine waits for news before it looks whether something hangs.
_SECONDS_BETWEEN_LOOKS = 1.0
Outcome = tuple[Job, Exception | None]
"""A job that ended, and what it failed with."""
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
class _Task:
    """A job of the grid, what it waits for, and how far it is."""

    job: Job
    index: int
    seconds: float
    needs: Needs
    waits_for: list[_Task] = field(default_factory=list)
    dependents: list[_Task] = field(default_factory=list)
    is_over: bool = False
    losses: int = 0
    reached: int = -1

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
    task: _Task | None = None
    since: float = 0.0
    last_sign: float = 0.0

    @property
    def gpus(self) -> list[tuple[str, int]]:
        """Its GPUs, wholly or in part."""
        return [(share.node, gpu) for share in self.place for gpu in share.gpus]


def tasks_of(jobs: Sequence[Job], seconds: Mapping[Key, float], processes: int = 1) -> list[_Task]:
    """Jobs and what each of them waits for among the others."""
    tasks = [
        _Task(job, index, seconds.get(job.key, 0.0), _needs(job, processes))
        for index, job in enumerate(jobs)
    ]
    makers: dict[str, list[_Task]] = {}
    for task in tasks:
        makers.setdefault(task.job.address, []).append(task)
    for task in tasks:
        inputs = [maker for name in task.job.waits_for for maker in makers.get(name, ())]
        inputs += [other for other in makers[task.job.address] if _is_earlier_part(other, task)]
        task.waits_for = [maker for maker in dict.fromkeys(inputs) if maker is not task]
        for maker in task.waits_for:
            maker.dependents.append(task)
    return tasks


def _needs(job: Job, processes: int) -> Needs:
    needs = job.needs()
    return replace(needs, gpus=processes) if job.kind == "train" else needs


def _is_earlier_part(other: _Task, task: _Task) -> bool:
    """Whether another job works on the part of a suite that comes before a job's."""
    # Which images share a batch depends on what the part before had. Shards of one part are drawn
    # at the same time.
    is_alike = other.index < task.index and other.job.kind == task.job.kind
    return is_alike and getattr(other.job, "suite", None) != getattr(task.job, "suite", None)


class _Room:
    """What of the nodes no running job has; idle workers may be ended for it."""

    def __init__(
        self, nodes: Sequence[Node], works: Sequence[_Work], *, with_idle: bool = False
    ) -> None:
        self.nodes, self._nodes = nodes, {node.name: node for node in nodes}
        self.parts = {(node.name, gpu): _PARTS for node in nodes for gpu in range(node.gpus)}
        self.slots = Counter({node.name: node.slots for node in nodes})
        for work in works:
            if with_idle or work.task is not None:
                self.take(work.place)

    def take(self, place: Place) -> None:
        """A job has it now."""
        for share in place:
            self.slots[share.node] -= share.slots
            for gpu in share.gpus:
                if (share.node, gpu) in self.parts:
                    self.parts[share.node, gpu] -= share.parts

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
        fitting = [
            (parts, name, gpu)
            for (name, gpu), parts in self.parts.items()
            if parts >= self.parts_for(gpu_gb, name)
        ]
        if not fitting:
            return None
        _, name, gpu = min(fitting)
        return (Share(name, (gpu,), self.parts_for(gpu_gb, name)),)

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


def _shared(loads: tuple[object, ...], others: tuple[object, ...]) -> int:
    """How much of what a job loads is loaded."""
    pairs = zip(loads, others, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(loads), len(others)))


class Engine:
    """Brings jobs to their end on the workers of a backend, which stay from one run to the next.

    ``processes`` train a cell together.
    """

    def __init__(
        self, backend: Backend, watcher: Watcher, patience: Patience, processes: int = 1
    ) -> None:
        self.backend, self.watcher, self.patience = backend, watcher, patience
        self.processes = processes
        self._works: dict[Worker, _Work] = {}
        self._waiting: list[_Task] = []
        self._own: dict[Future[None], _Task] = {}
        self._homeless_since: float | None = None

    def run(
        self, jobs: Sequence[Job], seconds: Mapping[Key, float], here: Callable[[Job], None]
    ) -> Iterator[Outcome]:
        """Run jobs; yields each when it has ended.

        ``here`` runs those that the grid's own process does, in a thread. Estimated ``seconds``
        decide about the order alone.
        """
        tasks = tasks_of(jobs, seconds, self.processes)
        # The longest path first; of equals the one that one process would do first.
        self._waiting = sorted(tasks, key=lambda task: (-task.path, task.index))
        with ThreadPoolExecutor(1, "grid") as desk:
            while self._waiting or self._own or any(w.task for w in self._works.values()):
                self._assign(desk, here)
                yield from self._collect()
                self.watcher.tick()

    # Handing out

    def _assign(self, desk: ThreadPoolExecutor, here: Callable[[Job], None]) -> None:
        nodes = self.backend.nodes()
        room = _Room(nodes, list(self._works.values()))
        until = math.inf
        for task in [task for task in self._waiting if task.is_ready]:
            if task.job.runs_here:
                self._waiting.remove(task)
                self._own[desk.submit(here, task.job)] = task
                continue
            on_gpu = bool(room.parts and (task.needs.gpus or task.needs.gpu_gb))
            # What would still run when a job of many GPUs could begin, has to let it pass.
            if on_gpu and self.backend.now() + task.seconds > until:
                continue
            work = self._worker_for(task.needs, room)
            if work is not None:
                room.take(work.place)
                self._begin(work, task)
            elif on_gpu and task.needs.gpus and until == math.inf:
                until = self._free_at(task.needs.gpus, room)
        self._tell(room, nodes)

    def _worker_for(self, needs: Needs, room: _Room) -> _Work | None:
        """A free worker, if possible one that has loaded what is needed; None: wait."""
        idle = [
            work
            for work in self._works.values()
            if work.task is None and room.has(work.place) and room.is_fit(work.place, needs)
        ]
        best = max(
            idle, key=lambda work: (_shared(needs.loads, work.loads), -work.since), default=None
        )
        if best is not None and _shared(needs.loads, best.loads) > 0:
            return best
        # Beside the idle ones, which keep what they have loaded, if there is room.
        place = _Room(room.nodes, list(self._works.values()), with_idle=True).place(needs)
        if place is None and best is not None:
            return best
        place = place or room.place(needs)
        if place is None:
            return None
        self._clear(place)
        worker = self.backend.start(place)
        self._works[worker] = work = _Work(worker, place)
        return work

    def _clear(self, place: Place) -> None:
        """End idle workers in whose way a new one would be: they hold memory."""
        for work in [work for work in self._works.values() if work.task is None]:
            room = _Room(self.backend.nodes(), list(self._works.values()), with_idle=True)
            if room.has(place):
                return
            if _overlap(place, work.place):
                del self._works[work.worker]
                self.backend.stop(work.worker)

    def _begin(self, work: _Work, task: _Task) -> None:
        self._waiting.remove(task)
        work.task, work.loads = task, task.needs.loads
        work.since = work.last_sign = self.backend.now()
        self.backend.submit(work.worker, task.job)

    def _free_at(self, count: int, room: _Room) -> float:
        """When so many GPUs will be free, by the estimates of what runs."""
        now, free = self.backend.now(), sum(map(len, room.whole.values()))
        for end, gpus in sorted(
            (max(work.since + work.task.seconds, now), len(work.gpus))
            for work in self._works.values()
            if work.task is not None and work.gpus
        ):
            free += gpus
            if free >= count:
                return end
        return math.inf

    def _tell(self, room: _Room, nodes: Sequence[Node]) -> None:
        busy = [work for work in self._works.values() if work.task is not None]
        if room.parts:
            count = len({gpu for work in busy for gpu in work.gpus})
            self.watcher.facts = f"{count} of {len(room.parts)} GPUs busy"
        else:
            slots = sum(node.slots for node in nodes)
            self.watcher.facts = f"{len(busy)} of {slots} workers busy"

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
            yield from self._over(task, error)
        yield from self._hanging()

    def _follow(self, update: Update) -> None:
        for work in self._works.values():
            # None has it if its worker was ended meanwhile.
            if work.task is not None and work.task.job.key == update.key:
                work.task.reached, work.last_sign = update.position, self.backend.now()
                self.watcher.follow(update)

    def _ended(self, event: Ended) -> Iterator[Outcome]:
        work = self._works[event.worker]
        task, work.task = work.task, None
        assert task is not None
        yield from self._over(task, event.failure)

    def _lost(self, event: Lost) -> Iterator[Outcome]:
        work = self._works.pop(event.worker, None)
        if work is None or work.task is None:
            return
        task = work.task
        task.losses += 1
        self.watcher.end(task.job.key)
        if task.losses > self.patience.retries:
            text = f"lost {task.losses} workers (launcher.retries={self.patience.retries}), the "
            yield from self._over(task, WorkerLost(f"{text}last one: {event.why}"))
            return
        log.warning("%s: %s; begun again", _name(task.job), event.why)
        self._waiting.append(task)
        self._waiting.sort(key=lambda one: (-one.path, one.index))

    def _over(self, task: _Task, failure: Exception | None) -> Iterator[Outcome]:
        """A job's end, and that of all that can now never begin."""
        task.is_over = failure is None
        self.watcher.end(task.job.key)
        if failure is None:
            yield task.job, None
            return
        # Or its seconds would stay in what is left of the grid.
        self.watcher.forget(task.job.key)
        yield task.job, failure
        for other in task.dependents:
            # One that runs already (on an early step) says itself how it ends.
            if other in self._waiting:
                self._waiting.remove(other)
                yield from self._over(other, blocked(task.job.address, failure))

    def _hanging(self) -> Iterator[Outcome]:
        """End workers that give no sign of life, and a grid that has no node to run on."""
        now, limit = self.backend.now(), self.patience.stall_minutes
        for work in list(self._works.values()):
            if work.task is not None and now - work.last_sign > 60 * limit:
                self.backend.stop(work.worker)
                why = f"no progress for {limit:g} minutes (launcher.stall_minutes)"
                yield from self._lost(Lost(worker=work.worker, why=why))
        ready = [t for t in self._waiting if t.is_ready and not t.job.runs_here]
        is_working = any(w.task for w in self._works.values()) or self._own
        if is_working or not ready:
            self._homeless_since = None
        elif self._homeless_since is None:
            self._homeless_since = now
        elif now - self._homeless_since > 60 * self.patience.start_minutes:
            task, minutes = ready[0], self.patience.start_minutes
            self._waiting.remove(task)
            text = f"no node could run it for {minutes:g} minutes (launcher.start_minutes)"
            yield from self._over(task, WorkerLost(text))


def _name(job: Job) -> str:
    return f"{job.cell.label}: {job.kind}"
