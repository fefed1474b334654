"""Workers that are processes of this machine, each with its GPU or its share of the cores."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Self

from typing_extensions import override

from soarbench.common.logs import set_levels
from soarbench.common.progress import Update
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Job
from soarbench.launchers.backend import Backend, Ended, Event, Lost, Node, Place, Worker
from soarbench.launchers.base import MakeWorkbench
from soarbench.launchers.worker import JobRunner, environment, variables

#: A worker that was asked to end is killed after so many seconds.
_SECONDS_TO_END = 10.0
#: Not forked: a process that has begun to use CUDA or threads must not be.
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class _Said:
    """A log line of a worker."""

    logger: str
    level: int
    text: str


class _Sender(logging.Handler):
    """Sends log lines to the process that shows bars, which lines of others would break."""

    def __init__(self, send: Callable[[object], None]) -> None:
        super().__init__()
        self._send = send

    @override
    def emit(self, record: logging.LogRecord) -> None:
        # Nobody reads what is said after the end of who started this.
        with contextlib.suppress(OSError):
            self._send(_Said(record.name, record.levelno, record.getMessage()))


@dataclass(frozen=True)
class _Running:
    process: SpawnProcess
    connection: Connection
    cores: tuple[int, ...]


class Processes(Backend):
    """Processes that end with this one, however it ends.

    Args:
        threads: Of each; so many as make up its share of the cores. Without GPUs it is held to as
            many cores, where the system can.
    """

    def __init__(
        self,
        grid: Grid,
        make_workbench: MakeWorkbench,
        *,
        node: Node,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grid, self._make_workbench = grid, make_workbench
        self._node, self._threads, self._clock = node, threads, clock
        self._numbers = itertools.count()
        self._workers: dict[Worker, _Running] = {}
        # Beside a GPU a process is best off near it, which its driver sees to.
        is_bound = hasattr(os, "sched_setaffinity") and not node.gpus
        self._cores = Counter({core: 0 for core in os.sched_getaffinity(0)} if is_bound else {})

    @override
    def nodes(self) -> Sequence[Node]:
        return [self._node]

    @override
    def now(self) -> float:
        return self._clock()

    @override
    def start(self, place: Place) -> Worker:
        (share,) = place
        here, there = _SPAWN.Pipe()
        is_small = bool(share.gpus) and share.gpu_share < 1
        threads = self._threads * max(share.slots, 1)
        cores = self._least_used(threads)
        process = _SPAWN.Process(
            target=_work, args=(there, self._grid, self._make_workbench, is_small, cores)
        )
        # torch reads them once, when it is imported, so they are set before it starts.
        with environment(variables(share, threads)):
            process.start()
        # Or the pipe would not end when the worker does.
        there.close()
        worker = next(self._numbers)
        self._workers[worker] = _Running(process, here, cores)
        return worker

    def _least_used(self, count: int) -> tuple[int, ...]:
        """Cores for a worker, which are taken from then on."""
        cores = tuple(sorted(self._cores, key=lambda core: (self._cores[core], core))[:count])
        self._cores.update(cores)
        return cores

    @override
    def submit(self, worker: Worker, job: Job) -> None:
        try:
            self._workers[worker].connection.send(job)
        except OSError:
            # It died while it was idle, which ``events`` is about to tell.
            return

    @override
    def stop(self, worker: Worker) -> None:
        running = self._workers.pop(worker)
        self._cores.subtract(running.cores)
        running.connection.close()
        running.process.terminate()
        running.process.join(_SECONDS_TO_END)
        running.process.kill()
        running.process.join()

    @override
    def events(self, seconds: float) -> Iterator[Event]:
        connections = {running.connection: worker for worker, running in self._workers.items()}
        if not connections:
            time.sleep(seconds)
        for connection in wait(list(connections), seconds) if connections else ():
            assert isinstance(connection, Connection)
            event = self._event(connections[connection])
            if event is not None:
                yield event

    def _event(self, worker: Worker) -> Event | None:
        running = self._workers[worker]
        try:
            message: Update | Exception | _Said | None = running.connection.recv()
        except (EOFError, OSError):
            self.stop(worker)
            return Lost(worker=worker, why=_why(running.process.exitcode))
        if isinstance(message, _Said):
            logging.getLogger(message.logger).log(message.level, "%s", message.text)
            return None
        return message if isinstance(message, Update) else Ended(worker=worker, failure=message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._workers.values():
            running.process.terminate()
        for worker in list(self._workers):
            self.stop(worker)


def _why(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "its process was killed, as Linux does when memory is short"
    return f"its process ended with exit code {exit_code}"


def _work(
    connection: Connection,
    grid: Grid,
    make_workbench: MakeWorkbench,
    is_small: bool,
    cores: tuple[int, ...],
) -> None:
    """Run what comes over the connection, until it ends."""
    if cores:
        # Of the process, and of those that it starts.
        os.sched_setaffinity(0, cores)
    # Ctrl-C goes to all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    lock = threading.Lock()

    def send(message: object) -> None:
        # Any thread may say something, and a connection is no queue.
        with lock:
            connection.send(message)

    set_levels(_Sender(send))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runner = JobRunner(grid, make_workbench, send, is_small)
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            # On the way out it would be a traceback of whoever is cleaning up.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            return
        send(runner.run(job))


def _leave(*_: object) -> None:
    # A second one would interrupt the way out; whoever takes too long is killed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Through every ``finally``: processes that train for this one are ended there.
    raise SystemExit(1)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: nobody would read what it does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # Whatever it does: a kill at any moment loses nothing that is whole.
    os._exit(1)
