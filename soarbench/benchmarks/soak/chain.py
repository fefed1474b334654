"""One command, killed at random moments and repeated until it is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from soarbench.benchmarks.soak import victims
from soarbench.benchmarks.soak.comparison import RunFolder, differences
from soarbench.benchmarks.soak.nodes import RayNodes

_SECONDS_BETWEEN_LOOKS = 0.02
#: Of the start of a process, in which MLflow makes its store and libraries are imported.
_START_SECONDS = 15.0
#: A run that nobody kills may take so many times the straight one, and so many seconds more.
_PATIENCE, _PATIENCE_SECONDS = 8.0, 300.0
#: Until processes whose orchestrator was killed have to be gone: they look once an update.
_SECONDS_TO_GO = 60.0


@dataclass(frozen=True)
class Kill:
    """A process that was alive, and died by it.

    Attributes:
        launch: Of the command, from 1.
        seconds: Since it began.
        moment: How it was chosen: ``any``, ``start``, or ``write``: just after a file changed.
        running: Jobs that ran, as the run said last.
    """

    launch: int
    seconds: float
    moment: str
    victim: str
    running: tuple[str, ...]


@dataclass(kw_only=True)
class Chain:
    """What came of one chain.

    Attributes:
        exits: Exit code of every launch.
        faults: What is wrong with it; none: as if nobody had killed anything.
    """

    kills: list[Kill] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Killer:
    """Runs chains of one command.

    Attributes:
        command: Without the words that name its folders.
        straight: The run that nobody killed, and ``seconds``, how long it took.
        until: Clock time (``time.monotonic``) after which nothing is killed any more.
        nodes: Of a cluster that the command joins; None: it joins none.
    """

    command: tuple[str, ...]
    straight: RunFolder
    seconds: float
    until: float = float("inf")
    nodes: RayNodes | None = None

    def run(self, folder: RunFolder, rng: np.random.Generator, limit: int) -> Chain:
        """A chain of at most ``limit`` kills, compared with the straight run."""
        chain, start = Chain(), time.monotonic()
        folder.root.mkdir(parents=True)
        token = uuid.uuid4().hex
        try:
            while not chain.faults and not self._launch(folder, chain, rng, limit, token):
                # As somebody who watches, or at once, as a scheduler: beside the old workers.
                if rng.random() < 0.5:
                    victims.outliving(token, _SECONDS_TO_GO)
            chain.faults += _still_alive(token)
        except subprocess.TimeoutExpired as error:
            text = f"launch {len(chain.exits) + 1} hung for {error.timeout:.0f} s"
            chain.faults.append(f"{text}: {_last_line(folder.root)}")
        finally:
            for process in victims.processes(token):
                victims.kill(process)
        if not chain.faults:
            chain.faults = differences(self.straight, folder)
        chain.seconds = time.monotonic() - start
        return chain

    def _launch(
        self, folder: RunFolder, chain: Chain, rng: np.random.Generator, limit: int, token: str
    ) -> bool:
        """Start the command and kill what belongs to it. -> Whether it is done."""
        begun, before, number = time.monotonic(), len(chain.kills), len(chain.exits) + 1
        with _started([*self.command, *folder.words], folder.root / "log.txt", token) as launch:
            while launch.poll() is None and len(chain.kills) < limit:
                moment = self._await_moment(launch, folder.store, rng)
                if moment is None:
                    break
                chosen = self._choose(launch.pid, rng, token)
                # Between the birth of a process and its program it has no variables.
                if chosen is None:
                    continue
                kind, process = chosen
                running = _running(folder.store, launch.pid)
                if self._kill(process):
                    seconds = round(time.monotonic() - begun, 2)
                    kill = Kill(number, seconds, moment, kind, running)
                    chain.kills.append(kill)
                if kind == "orchestrator":
                    break
            code = self._end(launch)
        chain.exits.append(code)
        killed = chain.kills[before:]
        # It ended by itself in the same moment.
        if killed and killed[-1].victim == "orchestrator" and code != -signal.SIGKILL:
            chain.kills.pop()
        if code == 0:
            return True
        # Whoever killed nothing is owed a run that ends well; lost workers may fail a cell.
        if not killed:
            chain.faults.append(f"launch {number} ended with {code}: {_last_line(folder.root)}")
        return False

    def _choose(
        self, orchestrator: int, rng: np.random.Generator, token: str
    ) -> tuple[str, psutil.Process | None] | None:
        alive = victims.processes(token)
        if self.nodes is not None:
            alive += self.nodes.workers()
        return victims.choose(alive, orchestrator, rng, has_node=self.nodes is not None)

    def _kill(self, process: psutil.Process | None) -> bool:
        if process is not None:
            return victims.kill(process)
        assert self.nodes is not None
        return self.nodes.kill_node()

    def _await_moment(
        self, launch: subprocess.Popen[bytes], store: Path, rng: np.random.Generator
    ) -> str | None:
        """Wait for a random moment; which sort it was, None when the run ended before."""
        sort = str(rng.choice(["any", "start", "write"], p=[0.35, 0.25, 0.4]))
        longest = min(self.seconds, _START_SECONDS) if sort == "start" else self.seconds
        # Less is left to do after each kill: anywhere in the whole would soon be after the end.
        wait = rng.random() * longest * (1.0 if sort == "start" else 0.4)
        if not _waited(launch, time.monotonic() + wait):
            return None
        if sort == "write":
            before = _changes(store)
            if not _waited(launch, time.monotonic() + 30.0, lambda: _changes(store) != before):
                return None
            time.sleep(0.05 * rng.random())
        return sort if time.monotonic() < self.until else None

    def _end(self, launch: subprocess.Popen[bytes]) -> int:
        """Wait for the end of the command; ``TimeoutExpired`` where it hangs."""
        return launch.wait(_PATIENCE * self.seconds + _PATIENCE_SECONDS)


@contextmanager
def _started(command: Sequence[str], log: Path, token: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as stream:
        launch = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # As the nodes, which would need a secret in common.
            env=os.environ | {"RAY_AUTH_MODE": "disabled", victims.TOKEN: token},
            # Ctrl-C is the soak's own.
            start_new_session=True,
        )
        yield launch


def run_straight(command: Sequence[str], folder: RunFolder) -> float:
    """Run a command without a kill; its seconds. ``ChildProcessError`` where it fails."""
    folder.root.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with _started([*command, *folder.words], folder.root / "log.txt", uuid.uuid4().hex) as launch:
        code = launch.wait()
    if code != 0:
        raise ChildProcessError(_last_line(folder.root))
    return time.monotonic() - start


def _waited(
    launch: subprocess.Popen[bytes], until: float, is_over: Callable[[], bool] = lambda: False
) -> bool:
    """Whether the run still goes on at that time, or when it ``is_over``."""
    while launch.poll() is None:
        if is_over() or time.monotonic() >= until:
            return True
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return False


def _changes(store: Path) -> int:
    """A number that is another one after each change of a file of a store."""
    return hash(
        tuple(
            (entry.path, entry.stat(follow_symlinks=False).st_mtime_ns)
            for folder, _, _ in os.walk(store)
            for entry in _entries(folder)
        )
    )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        # live.json is no result, and changes every second.
        return [entry for entry in os.scandir(folder) if "live.json" not in entry.name]
    except FileNotFoundError:
        return []


def _running(store: Path, pid: int) -> tuple[str, ...]:
    """Jobs of the run, by the file that it writes every second."""
    for path in store.glob("grids/*/live.json"):
        report = json.loads(path.read_text())
        if report["pid"] == pid:
            return tuple(report["running"])
    return ()


def _still_alive(token: str) -> list[str]:
    alive = victims.outliving(token, _SECONDS_TO_GO)
    return [f"{victims.kind_of(one, 0)} {one.pid} outlived its run" for one in alive]


def _last_line(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
