"""``launcher.workers=2``: the results of one process, whatever happens to workers."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from soarbench.cli.run import run_whole
from soarbench.common.errors import UserError
from soarbench.common.progress import Update
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import Job
from soarbench.jobs.graph import grid_jobs
from soarbench.jobs.prepare import Prepare
from soarbench.jobs.train import Train
from soarbench.launchers.base import MakeWorkbench
from soarbench.launchers.worker import JobRunner
from tests.fakes import FakeWorkbench, numbers
from tests.launchers import benches


@pytest.fixture
def words(overrides: list[str]) -> list[str]:
    return [*overrides, "tracking=none", "task=aesthetic", "launcher.workers=2"]


def run(words: list[str], bench: MakeWorkbench) -> tuple[Grid, int, str]:
    grid, stream = expand(words), io.StringIO()
    code = run_whole(grid, console=Console(file=stream, width=200), make_workbench=bench)
    return grid, code, stream.getvalue()


def in_one_process(words: list[str], tmp_path: Path) -> str:
    """What the same grid gives without workers."""
    places = [f"output_dir={tmp_path / 'one'}", f"results_dir={tmp_path / 'one'}"]
    grid, code, _ = run([*words, *places, "launcher.workers=1"], benches.quick)
    assert code == 0
    return numbers(grid.store.root)


def no_workers() -> bool:
    """Whether no process of this one is alive, but multiprocessing's own."""
    children = psutil.Process().children()
    return not [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_two_workers_give_the_numbers_of_one_process(words: list[str], tmp_path: Path) -> None:
    grid, code, text = run(words, benches.quick)
    assert code == 0
    assert "2 workers on" in text
    assert "2 of 2 workers busy" in text
    assert numbers(grid.store.root) == in_one_process(words, tmp_path)
    assert not list(grid.store.root.rglob("*.partial*"))
    assert no_workers()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no cores to be held to")
def test_each_worker_has_cores_of_its_own_and_says_nothing_by_itself(
    words: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    before = os.sched_getaffinity(0)
    caplog.set_level("INFO", "soarbench")
    grid, code, _ = run(words, benches.noting_cores)
    assert code == 0
    # What workers write themselves would break the bars of the process that shows them.
    assert sum("cores of" in message for message in caplog.messages) == 2
    assert "cores of" not in capfd.readouterr().err
    assert os.sched_getaffinity(0) == before
    first, second = (
        set(json.loads(path.read_text())) for path in grid.store.root.glob("cores-*.json")
    )
    assert len(first) == len(second) == max(len(before) // 2, 1)
    assert first | second <= before
    assert not first & second or len(before) == 1


def test_a_worker_that_is_killed_loses_nothing(words: list[str], tmp_path: Path) -> None:
    grid = expand(words)
    grid.store.root.mkdir(parents=True)
    (grid.store.root / "deaths").write_text("2")
    _, code, _ = run(words, benches.dying)
    assert code == 0
    assert (grid.store.root / "deaths").read_text() == "0"
    assert numbers(grid.store.root) == in_one_process(words, tmp_path)


def test_a_job_that_kills_every_worker_fails_alone(words: list[str]) -> None:
    grid = expand(words)
    grid.store.root.mkdir(parents=True)
    (grid.store.root / "deaths").write_text("99")
    _, code, text = run([*words, "launcher.retries=1"], benches.dying)
    assert code == 1
    assert "FAILED soar-aesthetic-seed0" in text
    assert "lost 2 workers (launcher.retries=1)" in text
    assert "its process was killed, as Linux does when memory is short" in text
    assert (grid.store.root / "deaths").read_text() == "97"
    finished = list(grid.folder.glob("*/status.json"))
    assert sum('"finished"' in path.read_text() for path in finished) == len(grid.cells) - 1


def test_a_worker_without_a_sign_of_life_is_ended(words: list[str]) -> None:
    # Long enough for a worker to start: it gives its first sign with its first job.
    short = ["launcher.stall_minutes=0.25", "launcher.retries=0"]
    _, code, text = run([*words, *short], benches.hanging)
    assert code == 1
    assert "no progress for 0.25 minutes (launcher.stall_minutes)" in text
    assert no_workers()


def test_a_failure_in_a_worker_is_told_with_its_own_traceback(words: list[str]) -> None:
    grid, code, text = run(words, benches.broken)
    assert code == 1
    assert "RuntimeError: reward 'x' returned 3 values for 4 images" in text
    (cell,) = grid.folder.glob("soar-*")
    assert "in train" in (cell / "error.txt").read_text()


def test_what_cannot_be_used_is_refused_before_anything_starts(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"model\.path=x cannot be used; choose another"):
        run(words, benches.refusing)
    assert not list(expand(words).store.root.glob("trainings/*"))
    assert no_workers()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_workers_end_with_the_grid_and_the_same_command_goes_on(
    name: str, words: list[str], tmp_path: Path
) -> None:
    code = (
        "import sys; from rich.console import Console; from soarbench.cli.run import run_whole;"
        "from soarbench.grid.expand import expand; from tests.launchers import benches;"
        "run_whole(expand(sys.argv[1:]), console=Console(), make_workbench=benches.slow)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    grid, deadline = expand(words), time.monotonic() + 300
    while not list(grid.store.root.glob("trainings/*/checkpoint-*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    os.kill(process.pid, getattr(signal, name))
    process.wait(120)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    _, exit_code, _ = run(words, benches.quick)
    assert exit_code == 0
    assert numbers(grid.store.root) == in_one_process(words, tmp_path)


_ENDED_TWICE = """
import atexit, os, signal
from soarbench.launchers.processes import _leave

signal.signal(signal.SIGTERM, _leave)
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
try:
    os.kill(os.getpid(), signal.SIGTERM)
finally:
    os.kill(os.getpid(), signal.SIGTERM)
    print("cleaned up")
"""


def test_a_worker_that_is_ended_twice_cleans_up_in_silence() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _ENDED_TWICE], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "cleaned up\n", "")


def test_what_soarbench_says_of_long_work_is_a_sign_of_life(overrides: list[str]) -> None:
    """Encoding a data set is one part of one job, and takes hours."""
    sent: list[Update] = []

    class Encodes(FakeWorkbench):
        def prepare(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002
            time.sleep(1.1)
            logging.getLogger("soarbench.data.rows").info("encoded images: 8 of 30")
            logging.getLogger("another.package").warning("this is none")

    grid = expand([*overrides, "tracking=none"])
    level = logging.getLogger("soarbench").level
    bench = Encodes()
    runner = JobRunner(grid, lambda given: bench.at(given.store), sent.append)
    assert runner.run(Prepare(cell=grid.cells[0], jobs=())) is None
    assert [(one.position, one.total) for one in sent] == [(0, 1), (0, 1), (1, 1)]
    assert logging.getLogger("soarbench").level == level


def test_a_job_lives_while_another_launch_has_its_artefact(overrides: list[str]) -> None:
    grid = expand([*overrides, "tracking=none", "method=sft", "task=aesthetic"])
    training = next(j for j in grid_jobs(grid.cells, diagnostics=False) if isinstance(j, Train))
    sent: list[Update] = []
    is_waiting = threading.Event()

    def send(update: Update) -> None:
        sent.append(update)
        is_waiting.set()

    runner = JobRunner(grid, lambda given: FakeWorkbench().at(given.store), send)
    with ThreadPoolExecutor(1) as pool:
        with grid.store.artefact(training.address).held():
            failure = pool.submit(runner.run, training)
            assert is_waiting.wait(20)
            assert sent[0].description.endswith("train, which another launch is at")
        assert failure.result() is None
    assert sent[-1].position == sent[-1].total == 6
