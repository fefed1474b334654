"""Starts the processes that train a cell together, on one node or on each of several."""

# Without torch: who hands work out needs none.
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid
from soarbench.store.training import TrainingFolder

#: Tells workers whose they are: one whose launch is gone stops.
LAUNCH_PID = "SOARBENCH_LAUNCH_PID"
#: Tells a process its span.
SPAN = "SOARBENCH_SPAN"
_ERROR_LINE = re.compile(
    r"(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Diverged|TakenOver|Exception): .*)"
)
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_FOR_THE_LEADER = 60.0
_LOST_PEER = re.compile(r"Connection (closed|reset|refused)|NCCL|DistBackendError|Broken pipe")


@dataclass(frozen=True, kw_only=True)
class Span:
    """Processes on one node or several, as one of the nodes sees them.

    Attributes:
        processes: On this node.
        nodes: How many there are.
        node: Which one this is; the first one leads.
        master: ``host:port`` at which several nodes meet.
        gpu_memory_gb: Of the smallest GPU of all nodes; 0 where it is not known.
    """

    processes: int
    nodes: int = 1
    node: int = 0
    master: str = ""
    gpu_memory_gb: float = 0.0

    @classmethod
    def current(cls, processes: int) -> Self:
        """Of this process; on this machine alone if nothing else is said."""
        text = os.environ.get(SPAN)
        return cls(processes=processes) if text is None else cls(**json.loads(text))

    @property
    def variable(self) -> dict[str, str]:
        """What tells a process that is started."""
        return {SPAN: json.dumps(dataclasses.asdict(self))}

    @property
    def words(self) -> list[str]:
        """For torch's launcher."""
        count = ["--nproc-per-node", str(self.processes)]
        if self.nodes == 1:
            return ["--standalone", *count]
        host, _, port = self.master.rpartition(":")
        place = ["--nnodes", str(self.nodes), "--node-rank", str(self.node)]
        return [*count, *place, "--master-addr", host, "--master-port", port]

    def logs(self, root: Path) -> list[Path]:
        """What the processes of each node say, in a training's folder."""
        # Of another node it is written through the shared folder.
        return [root / f"processes{f'-{i}' if i else ''}.log" for i in range(self.nodes)]


@contextlib.contextmanager
def started(
    grid: Grid, cell: CellConfig, folder: TrainingFolder, span: Span, variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The processes of this node that train a cell, under torch's launcher, inside the block."""
    # Each process makes the grid again from its command line.
    worker = ["-m", "soarbench.jobs.distributed", addresses.cell_id(cell), *grid.arguments]
    with span.logs(folder.root)[span.node].open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *span.words, *worker],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **span.variable, **variables, LAUNCH_PID: str(os.getpid())},
        )
        try:
            yield process
        finally:
            # After Ctrl-C they would train on, without anybody who counts their steps.
            if process.poll() is None:
                process.terminate()
                process.wait()


def join(grid: Grid, cell: CellConfig, span: Span) -> None:
    """Train a cell to its end on this node, beside the one that leads.

    ``RuntimeError`` says why it did not.
    """
    source = addresses.training(cell)
    assert source is not None, "the base model is not trained"
    folder = TrainingFolder(grid.store.artefact(source.address).root)
    folder.root.mkdir(parents=True, exist_ok=True)
    with started(grid, cell, folder, span, {}) as process:
        process.wait()
    if process.returncode != 0:
        # The node that leads may say more; or it waits for these until a collective's time is over.
        time.sleep(_SECONDS_FOR_THE_LEADER)
        raise RuntimeError(last_error(span.logs(folder.root), process.returncode))


def end_with_launch() -> None:
    """From now on end this process, at once, when its launch or torch's launcher is gone."""
    launch, parent = psutil.Process(int(os.environ[LAUNCH_PID])), os.getppid()

    def watch() -> None:
        while _is_alive(launch) and os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        # The lock of the folder was the launch's, so the same command would train the cell a second
        # time, and find the memory of the GPUs taken.
        sys.stderr.write("the launch was killed; the same command goes on from here\n")
        sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=watch, name="launch", daemon=True).start()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def last_error(logs: Sequence[Path], exit_code: int) -> str:
    """What the processes of all nodes said last that is an error, and in which log."""
    errors = [
        (match.group(1), log)
        for log in logs
        if log.is_file()
        for match in map(_ERROR_LINE.fullmatch, log.read_text(errors="replace").splitlines())
        # The launcher of the processes ends with an error of its own, which says nothing.
        if match and "ChildFailedError" not in match.group(1)
    ]
    # Where one process ends, the others lose their connection to it, and say so as well.
    errors.sort(key=lambda error: _LOST_PEER.search(error[0]) is not None)
    cause, log = errors[0] if errors else (f"exit code {exit_code}", logs[0])
    return f"{cause} (all of it: {log})"
