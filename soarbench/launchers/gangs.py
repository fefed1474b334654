"""How many processes train each cell, so that no GPU waits for one long training."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soarbench.common.progress import Key
from soarbench.grid.cell import CellConfig
from soarbench.jobs.train import Train
from soarbench.store.artefact import Store
from soarbench.store.training import TrainingFolder

log = logging.getLogger(__name__)
#: In a training's ``choices.json``.
_KEY = "launcher.num_processes"
#: Processes are doubled for no less than this share of the whole time: what they say to each other
#: is in no estimate.
_WORTH_SHARE = 0.02
#: Trainings that differ by less than this factor are given more processes together.
_ALIKE = 1.1
Counts = dict[str, int]
"""Processes by training."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Seconds on one GPU, and numbers of processes that could share them, ascending."""

    seconds: float
    counts: tuple[int, ...]


def possible_counts(cell: CellConfig, gpus: int) -> tuple[int, ...]:
    """Powers of two up to a number of GPUs that divide a cell's batch."""
    powers = (2**i for i in range(max(gpus, 1).bit_length()))
    return tuple(count for count in powers if count == 1 or _divides(cell, count))


def _divides(cell: CellConfig, count: int) -> bool:
    assert cell.training is not None
    assert cell.data is not None
    assert cell.method is not None
    block = cell.data.rows_per_shape
    try:
        cell.training.check_processes(count)
        if block is not None and cell.method.trains_on == "images":
            cell.training.check_shapes(block, count)
    except ValueError:
        return False
    return True


def choose_and_keep(
    jobs: Sequence[Train], seconds: Mapping[Key, float], store: Store, gpus: int
) -> Counts:
    """The number for every training: as it was begun, or chosen now and kept with it."""
    folders = {job.address: TrainingFolder(store.artefact(job.address).root) for job in jobs}
    trainings = {
        job.address: Training(
            seconds=seconds[job.key], counts=_counts(job.cell, folders[job.address], gpus)
        )
        for job in jobs
    }
    counts = choose(trainings, gpus)
    for address, folder in folders.items():
        folder.note_choices({_KEY: counts[address]})
    return counts


def _counts(cell: CellConfig, folder: TrainingFolder, gpus: int) -> tuple[int, ...]:
    """What is possible; of a training that was begun the number that it has."""
    kept = folder.choices().get(_KEY) if folder.exists else None
    # The order in which processes add up decides about the last bits.
    if isinstance(kept, int) and kept <= max(gpus, 1):
        return (kept,)
    if kept is not None:
        log.warning("%s was begun by %s processes; there are %d GPUs", cell.label, kept, gpus)
    return possible_counts(cell, gpus)


def choose(trainings: Mapping[str, Training], gpus: int) -> Counts:
    """The fewest processes with which all trainings end nearly as early as they can.

    Doubles, again and again, what shortens the whole most; as Turek, Wolf and Yu (1992) do for jobs
    of any number of processors.
    """
    counts = {name: training.counts[0] for name, training in trainings.items()}
    ways = [(makespan(trainings, counts, gpus), counts)]
    while larger := _larger(trainings, counts, gpus):
        # Of equals what doubles the longest one: two that wait for each other shorten nothing yet.
        tried = [(makespan(trainings, one, gpus), -longest, one) for longest, one in larger]
        length, _, counts = min(tried, key=lambda way: way[:2])
        ways.append((length, counts))
    shortest = min(length for length, _ in ways)
    return next(one for length, one in ways if length <= shortest * (1 + _WORTH_SHARE))


def _larger(
    trainings: Mapping[str, Training], counts: Counts, gpus: int
) -> list[tuple[float, Counts]]:
    """Counts in which trainings that are alike have the next number, and how long those take."""
    groups: dict[tuple[object, ...], Counts] = {}
    lengths: dict[tuple[object, ...], float] = {}
    for name, training in trainings.items():
        following = [n for n in training.counts if counts[name] < n <= gpus]
        if following and training.seconds > 0:
            length = training.seconds / counts[name]
            alike = round(math.log(training.seconds, _ALIKE)), training.counts
            groups.setdefault(alike, {})[name] = following[0]
            lengths[alike] = max(length, lengths.get(alike, 0.0))
    return [(lengths[alike], {**counts, **group}) for alike, group in groups.items()]


def makespan(trainings: Mapping[str, Training], counts: Counts, gpus: int) -> float:
    """Seconds until all have ended, the longest first, others in the gaps."""
    waiting = sorted(
        ((one.seconds / counts[name], counts[name]) for name, one in trainings.items()),
        reverse=True,
    )
    now, free, running = 0.0, gpus, list[tuple[float, int]]()
    while waiting:
        left = []
        for seconds, count in waiting:
            # One that was begun with more GPUs than are there now has all of them.
            if count <= free or (not running and free == gpus):
                free -= min(count, gpus)
                heapq.heappush(running, (now + seconds, min(count, gpus)))
            else:
                left.append((seconds, count))
        waiting = left
        if waiting:
            now, count = heapq.heappop(running)
            free += count
    return max((end for end, _ in running), default=now)
