"""A Ray cluster of two nodes on this machine, one of which dies and comes back."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Self

import psutil

from soarbench.benchmarks.soak import victims
from soarbench.common.errors import UserError

_ADDRESS = re.compile(r"--address='([\d.]+:\d+)'")
_STARTED = "Ray runtime started"
#: Artefacts go through the shared folder.
_WORDS = ("--num-cpus=1", "--object-store-memory=134217728", "--block")
_SECONDS_TO_START = 120.0


def require_ray() -> None:
    """Refuse where Ray is missing; ``UserError`` with the remedy."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "launchers=ray: Ray is not installed; run 'pip install soarbench[ray]', or give "
            "launchers=[local,processes]"
        )


class RayNodes:
    """Ray's own command starts each; the second one's processes can be killed all at once.

    Attributes:
        address: Of the cluster.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokens: list[str] = []

    def __enter__(self) -> Self:
        # A soak that was ended leaves its log.
        log = self._start("--head", "--port=0", "--include-dashboard=false")
        match = _ADDRESS.search(log)
        assert match is not None, log
        self.address = match.group(1)
        self._start(f"--address={self.address}")
        return self

    def __exit__(self, *_: object) -> None:
        for token in reversed(self._tokens):
            _kill_all(token)

    def _start(self, *words: str) -> str:
        """Start a node and wait for it; what it said."""
        token, path = uuid.uuid4().hex, self._folder / f"node-{len(self._tokens)}.txt"
        self._tokens.append(token)
        command = [str(Path(sys.executable).with_name("ray")), "start", *words, *_WORDS]
        # The command under test has no token of this cluster.
        settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        with path.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | settings | {victims.TOKEN: token},
                start_new_session=True,
            )
        deadline = time.monotonic() + _SECONDS_TO_START
        while process.poll() is None and time.monotonic() < deadline:
            log = path.read_text(errors="replace")
            # The address comes a moment after.
            if _STARTED in log and "block forever" in log:
                return log
            time.sleep(0.2)
        raise UserError(f"launchers=ray_nodes: no Ray node could be started here; see {path}")

    def workers(self) -> list[psutil.Process]:
        """Of both nodes."""
        alive = [process for token in self._tokens for process in victims.processes(token)]
        return [process for process in alive if victims.kind_of(process, 0) == "Ray worker"]

    def kill_node(self) -> bool:
        """Kill all of the second node, and start another in its place. -> Whether it was there."""
        is_dead = _kill_all(self._tokens.pop())
        self._start(f"--address={self.address}")
        return is_dead


def _kill_all(token: str) -> bool:
    # Some of them end by themselves when the first one is gone.
    return any([victims.kill(process) for process in victims.processes(token)])
