"""The jobs of a grid as a scheduler sees them: what waits for what, and which goes first."""

from __future__ import annotations

import bisect
import functools
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from soarbench.common.progress import Key
from soarbench.jobs.base import Job, Needs

#: Of the jobs that would not end in time, before a job of many GPUs begins, so many are looked at.
_MOST_TOO_LONG = 200
Answer = Literal["begun", "no place", "too long"]


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


def _is_earlier_part(other: Task, task: Task) -> bool:
    """Whether another job works on the part of a suite that comes before a job's."""
    # Which images share a batch depends on what the part before had. Shards of one part are drawn
    # at the same time.
    is_alike = other.index < task.index and other.job.kind == task.job.kind
    return is_alike and getattr(other.job, "suite", None) != getattr(task.job, "suite", None)


class Queue:
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

    def hand_out(self, begin: Callable[[Task], Answer]) -> None:
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


def num_shared(loads: tuple[object, ...], others: tuple[object, ...]) -> int:
    """How much of what a job loads is loaded."""
    pairs = zip(loads, others, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(loads), len(others)))
