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
from soarbench.store.artefact import KINDS

_SECONDS_BETWEEN_LOOKS = 0.02
#: Of the start of a process, in which MLflow makes its store and libraries are imported.
_START_SECONDS = 15.0
#: One more than the changes of files that a kill waits for at most.
_MOST_WRITES = 12
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
        moment: How it was chosen: ``any``, ``start``, or just after an artefact's ``write``.
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
        is_compared: Whether it came to an end that could be compared.
    """

    kills: list[Kill] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    is_compared: bool = False
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
            chain.faults, chain.is_compared = differences(self.straight, folder), True
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
        sort = str(rng.choice(["any", "start", "write"], p=[0.25, 0.15, 0.6]))
        if sort == "write":
            goes_on = self._await_writes(launch, store, int(rng.integers(1, _MOST_WRITES)))
            time.sleep(0.05 * rng.random())
        else:
            # Less is left after each kill: anywhere in the whole would soon be after the end.
            longest = min(_START_SECONDS, self.seconds) if sort == "start" else 0.5 * self.seconds
            goes_on = _waited(launch, time.monotonic() + longest * rng.random())
        return sort if goes_on and time.monotonic() < self.until else None

    def _await_writes(self, launch: subprocess.Popen[bytes], store: Path, number: int) -> bool:
        """Whether the run still goes on after so many changes of artefacts."""
        # Loading takes longest and writes none: kills by the clock alone would nearly all hit it.
        until = min(self.until, time.monotonic() + self._patience)
        for _ in range(number):
            before = _changes(store)
            if not _waited(launch, until, lambda before=before: _changes(store) != before):  # type: ignore[misc]
                return False
        return True

    @property
    def _patience(self) -> float:
        """Seconds that a run which nobody kills may take."""
        return _PATIENCE * self.seconds + _PATIENCE_SECONDS

    def _end(self, launch: subprocess.Popen[bytes]) -> int:
        """Wait for the end of the command; ``TimeoutExpired`` where it hangs."""
        return launch.wait(self._patience)


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
    """A number that is another one after each change of an artefact."""
    stamps = []
    for folder, _, names in os.walk(store):
        # What is cached, logged and said while it runs is no artefact.
        if Path(folder).relative_to(store).parts[:1] in [(kind,) for kind in KINDS]:
            stamps += [_stamp(os.path.join(folder, name)) for name in names]
    return hash(tuple(stamps))


def _stamp(path: str) -> tuple[str, int]:
    """Of a file that may be gone already."""
    try:
        return path, os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return path, 0


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
