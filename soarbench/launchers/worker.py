"""What a worker does: one job after the other, in a process with its own GPUs or cores."""

# Imported before the worker knows which GPUs are its own: no framework.
from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from typing_extensions import override

from soarbench.common.errors import Damaged, JobFailed, UserError, reason
from soarbench.common.progress import Progress, SentProgress, Update
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Context, Job, Workbench
from soarbench.launchers.backend import Share
from soarbench.launchers.base import MakeWorkbench

#: Which GPUs a process sees; CUDA reads it once, when it is first asked for anything.
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def failure_of(error: Exception) -> Exception:
    """A failure as it can be sent: not every exception can be made again from its words."""
    # Says which artefact is to be made again.
    if isinstance(error, Damaged):
        return error
    if isinstance(error, UserError):
        return UserError(str(error))
    return JobFailed(reason(error), "".join(traceback.format_exception(error)))


class _SignOfLife(logging.Handler):
    """Takes what soarbench says of long work, line by line, for a sign that it goes on."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self._progress.alive()


@contextlib.contextmanager
def _signs_of_life(progress: Progress) -> Iterator[None]:
    """While the block runs."""
    logger, handler = logging.getLogger("soarbench"), _SignOfLife(progress)
    level = logger.level
    # On a Ray node nobody has asked for it.
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@dataclass(eq=False)
class JobRunner:
    """Runs jobs in this process, which nothing else uses.

    Attributes:
        send: Takes how far a job is.
        is_small: Whether it has a part of a GPU: judges that it has loaded make way for the next.
    """

    grid: Grid
    make_workbench: MakeWorkbench
    send: Callable[[Update], object]
    is_small: bool = False
    _workbench: Workbench | None = field(default=None, init=False)
    _loads: tuple[object, ...] = field(default=(), init=False)

    def run(self, job: Job) -> Exception | None:
        """Run a job; what it failed with."""
        try:
            context = self._context(job)
            with _signs_of_life(context.progress):
                job.run(context)
        # Whatever goes wrong in one job, the rest of the grid goes on.
        except Exception as error:  # noqa: BLE001
            return failure_of(error)
        return None

    def _context(self, job: Job) -> Context:
        loads = job.needs().loads
        if self._workbench is None or (self.is_small and loads != self._loads):
            self._workbench = None
            self._workbench = self.make_workbench(self._grid_for(job))
        self._loads = loads
        return Context(
            store=self.grid.store,
            workbench=self._workbench,
            tracker=None,
            progress=SentProgress(self.send),
        )

    def _grid_for(self, job: Job) -> Grid:
        """The grid, with the number of processes that the launcher chose for a training.

        And on the CPU for work that asks for no GPU, of which this worker then sees none.
        """
        settings, needs = self.grid.settings, job.needs()
        if job.kind == "train" and settings.launcher.num_processes is None:
            # A worker of several GPUs is given nothing but trainings of that many processes.
            launcher = replace(settings.launcher, num_processes=max(needs.gpus, 1))
            settings = replace(settings, launcher=launcher)
        # What needs one is not sent here: without any on the machine, preparing has failed.
        if os.environ.get(VISIBLE_GPUS) == "" and not needs.gpus and not needs.gpu_gb:
            settings = replace(settings, device="cpu")
        return replace(self.grid, settings=settings)


def variables(share: Share, threads: int, gpus: Sequence[str] | None = None) -> dict[str, str]:
    """Environment of a process with a share of a machine: its GPUs, and threads of its cores.

    ``gpus`` are the names of the machine's; None: of those of this process.
    """
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return counts | {VISIBLE_GPUS: visible(share.gpus, gpus)}


def visible(chosen: Sequence[int], gpus: Sequence[str] | None = None) -> str:
    """What ``VISIBLE_GPUS`` says to a process that is to see some of the GPUs, by their indices."""
    # A machine's owner, or SLURM, may have given this process a part of the GPUs only.
    given = gpus or os.environ.get(VISIBLE_GPUS, "").split(",")
    return ",".join(given[gpu] if len(given) > gpu and given[0] else str(gpu) for gpu in chosen)


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
