"""``launcher=local``: this machine, in this process or in several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.common.errors import UserError
from soarbench.common.progress import print_line
from soarbench.config.run import LauncherConfig
from soarbench.jobs.base import Context, Job, Workbench
from soarbench.jobs.repair import run_repaired
from soarbench.launchers.backend import Node
from soarbench.launchers.base import Launch, Launcher, Outcome
from soarbench.launchers.engine import blocked
from soarbench.launchers.pool import Pool
from soarbench.launchers.processes import Processes

#: Less work than this is over before other processes have started.
_WORTH_SECONDS = 90.0
#: Of memory, for a worker without a GPU: the laboratory's hold 2.
_WORKER_GB = 4.0
#: Two trainings at once on two cores, a thread each, took 2.0 to 2.3 times as long as one took with
#: two threads: nothing is won.
_WORKER_CORES = 2


@dataclass(frozen=True, kw_only=True)
class LocalConfig(LauncherConfig):
    """This machine.

    Attributes:
        workers: Processes that do jobs at the same time, each with a GPU of its own or with its
            share of the cores. 1 is this process, one job after the other, with all cores. Null
            chooses: a worker for every GPU, or for every two cores, where that is faster.
    """

    kind: ClassVar[str] = "local"

    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"launcher.workers={self.workers}: must be at least 1")

    @override
    def build(self) -> Launcher:
        return Local(self)


class Local(Launcher):
    """One job after the other in this process, or several in processes of their own."""

    def __init__(self, config: LocalConfig) -> None:
        self._config = config
        self._pool: Pool | None = None

    @override
    def open(self, launch: Launch, jobs: Sequence[Job]) -> Workbench | None:
        node = self._node(launch, jobs)
        require_gpus(node.gpus, launch.grid.settings.device, self._config)
        if max(node.gpus, node.slots) == 1:
            return super().open(launch, jobs)
        if node.gpus:
            text = f"{node.gpus} workers, each with a GPU of its own"
        else:
            text = f"{node.slots} workers on {cores()} cores"
        print_line(launch.progress.console, f"{text}; launcher.workers=1 does one job at a time")
        threads = max(cores() // (node.gpus + node.slots), 1)
        self._pool = Pool(
            self._config,
            lambda launch: Processes(
                launch.grid, launch.make_workbench, node=node, threads=threads
            ),
        )
        self._pool.open(launch, jobs)
        return None

    def _node(self, launch: Launch, jobs: Sequence[Job]) -> Node:
        """This machine, as far as it is used."""
        workers, gpus = self._config.workers, num_gpus(launch.grid.settings.device)
        if gpus:
            import torch

            memory = torch.cuda.get_device_properties(0).total_memory / 1e9
            count = min(workers or gpus, gpus)
            # As many jobs again on the cores alone: OCR, statistics.
            return Node(name="here", gpus=count, slots=count, gpu_memory_gb=memory)
        return Node(name="here", slots=workers or self._slots(launch, jobs))

    def _slots(self, launch: Launch, jobs: Sequence[Job]) -> int:
        """Workers without GPUs: as many as cores, memory and jobs allow, where it is worth it."""
        seconds = sum(launch.seconds[job.key] for job in jobs)
        # Processes that train together share the cores already.
        if seconds < _WORTH_SECONDS or self._config.count > 1:
            return 1
        num_weights = len({job.needs().loads for job in jobs if job.kind in ("train", "draw")})
        return max(min(cores() // _WORKER_CORES, num_weights, int(memory_gb() / _WORKER_GB)), 1)

    @override
    def run(self, jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
        return run_jobs(jobs, context) if self._pool is None else self._pool.run(jobs, context)

    @override
    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()


def require_gpus(gpus: int, device: str, config: LocalConfig) -> None:
    """Refuse more processes for a cell than there are GPUs, or a single GPU for several."""
    many = config.count
    # Without any, processes share the cores.
    if not gpus or many <= gpus:
        return
    if device not in ("auto", "cuda"):
        raise UserError(
            f"device={device}: one GPU for launcher.num_processes={many}; use device=auto"
        )
    limit = f" for launcher.workers={config.workers}" if config.workers == gpus else ""
    raise UserError(
        f"launcher.num_processes={many}: this machine has {gpus} CUDA devices{limit}; use "
        f"launcher.num_processes={gpus}"
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> float:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def num_gpus(device: str) -> int:
    """GPUs that ``device`` leaves to jobs: all of them, or the one that is named."""
    if device not in ("auto", "cuda"):
        return 0 if not device.startswith("cuda") else 1
    import torch

    return torch.cuda.device_count()


def run_jobs(jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
    """Run jobs, each after those that it waits for; yields each when it has ended.

    Models and judges stay loaded between jobs that need the same. A job whose input failed is not
    tried; the others are still worth running.
    """
    failed: dict[str, Exception] = {}
    for job in jobs:
        failure: Exception | None = None
        missing = next((address for address in job.waits_for if address in failed), None)
        if missing is not None:
            failure = blocked(missing, failed[missing])
        else:
            try:
                run_repaired(job, lambda one: one.run(context))
            # Whatever goes wrong in one job (out of memory, a user's reward, a diverged loss), the
            # reason is recorded with it, and the rest of the grid goes on.
            except Exception as error:  # noqa: BLE001
                failure = error
        if failure is not None:
            failed[job.address] = failure
            # Or its seconds would stay in what is left of the grid.
            context.progress.forget(job.key)
        yield job, failure
