"""The processes of a run, wherever they were started from, and their ends."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import psutil

#: A variable that every process of a run inherits, also when its parent is gone.
TOKEN = "SOARBENCH_SOAK"
#: A node of a cluster as a victim: all of its processes.
NODE = "node"
#: What a command line has that names a kind of process; the first one counts.
_MARKS: Mapping[str, str] = {
    "ray::DashboardAgent": "Ray helper",
    "ray::RuntimeEnvAgent": "Ray helper",
    "ray::": "Ray worker",
    # Names all other programs of its node.
    "/raylet ": "raylet",
    "/gcs_server ": "gcs",
    "default_worker.py": "Ray worker",
    "/ray/": "Ray helper",
    "ray.util.client": "Ray helper",
    "resource_tracker": "resource tracker",
    "--multiprocessing-fork": "worker",
    "torch.distributed.run": "torchrun",
    "soarbench.jobs.distributed": "rank",
    "soarbench": "helper",
}
#: How often a kind is chosen, where it is there; the others: 1.
_SHARES: Mapping[str, int] = {
    "orchestrator": 4, "worker": 4, "rank": 4, "torchrun": 2, "Ray worker": 4, "raylet": 2, NODE: 2,
}  # fmt: skip
_SECONDS_TO_DIE = 10.0


def processes(token: str) -> list[psutil.Process]:
    """Those that live and carry a token, or descend from one that does; oldest first."""
    children = defaultdict[int, list[psutil.Process]](list)
    carrying = []
    for process in psutil.process_iter(["ppid", "create_time"]):
        children[process.info["ppid"]].append(process)
        if _carries(process, token):
            carrying.append(process)
    family: dict[int, psutil.Process] = {}
    # Ray's workers write their titles over their variables.
    while carrying:
        process = carrying.pop()
        if process.pid not in family:
            family[process.pid] = process
            carrying += children[process.pid]
    return sorted(filter(is_alive, family.values()), key=lambda one: one.info["create_time"] or 0.0)


def _carries(process: psutil.Process, token: str) -> bool:
    try:
        return bool(process.environ().get(TOKEN) == token)
    except psutil.Error:
        # It ended meanwhile, or is somebody else's.
        return False


def is_alive(process: psutil.Process) -> bool:
    """Whether it still does something: a zombie only waits for its parent."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def kind_of(process: psutil.Process, orchestrator: int) -> str:
    """What a process is to a run."""
    if process.pid == orchestrator:
        return "orchestrator"
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return "ended"
    marks = (kind for mark, kind in _MARKS.items() if mark in line)
    return next(marks, f"other: {line[:40]}")


def choose(
    alive: Sequence[psutil.Process], orchestrator: int, rng: np.random.Generator, *, has_node: bool
) -> tuple[str, psutil.Process | None] | None:
    """A random process of a random kind, or a ``NODE``; None where nothing is left to kill."""
    kinds: dict[str, list[psutil.Process]] = {NODE: []} if has_node else {}
    for process in alive:
        kinds.setdefault(kind_of(process, orchestrator), []).append(process)
    if not kinds:
        return None
    names = sorted(kinds)
    shares = np.array([_SHARES.get(name, 1) for name in names], dtype=np.float64)
    name = names[rng.choice(len(names), p=shares / shares.sum())]
    members = kinds[name]
    return name, members[rng.integers(len(members))] if members else None


def kill(process: psutil.Process) -> bool:
    """SIGKILL. -> Whether it was alive before, and is not afterwards."""
    # psutil makes sure that the number is still this process's.
    if not is_alive(process):
        return False
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    deadline = time.monotonic() + _SECONDS_TO_DIE
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def outliving(token: str, seconds: float) -> list[psutil.Process]:
    """Processes with a token that are still there after so many seconds."""
    deadline = time.monotonic() + seconds
    while (alive := processes(token)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return alive
