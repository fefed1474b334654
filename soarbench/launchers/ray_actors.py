"""What runs on the nodes of a Ray cluster, in processes of their own."""

# Neither Ray nor a framework: a worker's variables are set before anything reads them.
from __future__ import annotations

import dataclasses
import importlib.util
import os
import queue
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soarbench import __version__
from soarbench.common.files import files_digest
from soarbench.common.progress import Update
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Job
from soarbench.jobs.torchrun import Span, join
from soarbench.launchers.base import MakeWorkbench
from soarbench.launchers.worker import JobRunner

_PACKAGES = ("soarbench", "baselines", "evaluators")
_MEMORY = (
    "import torch; is_there = torch.cuda.is_available(); "
    "print(torch.cuda.get_device_properties(0).total_memory if is_there else 0)"
)
Message = Update | Exception | None
"""How far a job is; or its end, and what it failed with."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a node says of itself.

    Attributes:
        gpus: Their names for CUDA_VISIBLE_DEVICES.
        gpu_memory_gb: Of its first; 0 where torch sees none.
        problem: Why it cannot do the work; None: it can.
    """

    gpus: tuple[str, ...]
    gpu_memory_gb: float
    problem: str | None


class NodeHost:
    """Holds a node's GPUs while the grid runs.

    Ray would give parts of GPUs out by an order of its own, so that two halves could lie on two
    GPUs of which the engine counts one as free: who holds all of them can say which one it is.
    """

    def look(self, folder: Path, check: Path, mark: str, name: str, code: str) -> Facts:
        """Say what the node is like.

        Args:
            folder: The working one.
            check: A folder of the output directory; its file ``driver`` holds ``mark``.
            mark: Of the process that runs the grid.
            name: A file that is written there.
            code: Of the process that runs the grid.
        """
        names = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = tuple(name for name in names.split(",") if name)
        problem = _problem(folder, check, mark, code)
        if problem is None:
            (check / name).write_text(mark)
        return Facts(gpus=gpus, gpu_memory_gb=_memory_gb() if gpus else 0.0, problem=problem)


def _problem(folder: Path, check: Path, mark: str, code: str) -> str | None:
    if code != code_version():
        return f"has soarbench {code_version()}, not {code}; install the same on all nodes"
    for needed in (folder, check):
        if not needed.is_dir():
            return f"does not share the folder {needed} with the machine that runs the grid"
    if (check / "driver").read_text() != mark:
        return f"reads another file than was written at {check}"
    return None


def _memory_gb() -> float:
    """Of the first GPU that this process sees."""
    # Without a driver there is nothing to ask, and importing torch takes seconds. In a process of
    # its own: one that has begun to use CUDA holds memory.
    if shutil.which("nvidia-smi") is None:
        return 0.0
    words = [sys.executable, "-c", _MEMORY]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) / 1e9


def code_version() -> str:
    """The version of the packages, and the digest of their code and configuration."""
    digests = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        paths = [path for path in root.rglob("*") if path.suffix in (".py", ".yaml")]
        digests.append(files_digest(sorted(paths), root))
    return f"{__version__} ({'-'.join(digest[:4] for digest in digests)})"


class NodeWorker:
    """Runs jobs, one after the other, and says how far they are to who asks meanwhile."""

    def __init__(self, variables: Mapping[str, str], folder: Path) -> None:
        os.environ.update(variables)
        os.chdir(folder)
        self._news = queue.SimpleQueue[Message]()

    def begin(self, shared: tuple[Grid, MakeWorkbench], *, is_small: bool, argv: list[str]) -> None:
        """Be ready for the jobs of a grid."""
        # What artefacts keep as the command that made them: Ray's own names ports and folders.
        sys.argv = argv
        # Not in the constructor, whose arguments are imported before the variables are set.
        self._runner = JobRunner(*shared, self._news.put, is_small)

    def run(self, job: Job) -> None:
        """Run a job."""
        self._news.put(self._runner.run(job))

    def news(self) -> list[Message]:
        """What came to pass since it was last asked, waiting for the first."""
        messages = [self._news.get()]
        while not self._news.empty():
            messages.append(self._news.get())
        return messages

    def meet(self, span: Span, host: str) -> str:
        """Lead the next training on several nodes, which meet at this one; where that is."""
        with socket.create_server((host, 0)) as server:
            master = f"{host}:{server.getsockname()[1]}"
        os.environ.update(dataclasses.replace(span, master=master).variable)
        return master


class NodePartner:
    """Trains beside a worker that leads, for one job."""

    def __init__(self, variables: Mapping[str, str], folder: Path) -> None:
        os.environ.update(variables)
        os.chdir(folder)

    def join(self, shared: tuple[Grid, MakeWorkbench], job: Job, span: Span, master: str) -> None:
        """Run the processes of this node."""
        join(shared[0], job.cell, dataclasses.replace(span, master=master))
