"""The script on a real SLURM: two nodes with pretended GPUs on this computer."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from soarbench.cli.app import main
from soarbench.cli.run import run_whole
from soarbench.grid.expand import expand
from tests.fakes import numbers
from tests.launchers import benches
from tests.launchers.slurm.cluster import Cluster, cluster, reason_to_skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip())),
]
#: Stands for the interpreter that the script calls; what is not named here is the real one's.
SHIM = """\
#!/bin/bash
case "$2" in
{cases}
esac
exec {python} "$@"
"""
#: Ray takes 10 s to start; most of what is asked here is asked of SLURM and bash.
WITHOUT_RAY = {
    "ray.scripts.scripts": "exec sleep 300",
    "soarbench.launchers.slurm_nodes": "exit 0",
}
#: Goes on until it is interrupted, and ends at its second start.
INTERRUPTED = """\
import pathlib, sys, time
starts = pathlib.Path("starts")
with starts.open("a") as stream:
    stream.write("started\\n")
if len(starts.read_text().split()) > 1:
    sys.exit(0)
try:
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""
#: Takes no interrupt, as one that is within a long call.
STUBBORN = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{INTERRUPTED}"
#: ``python -m soarbench run`` with a workbench that takes its time at the first start.
GRID = """\
import json, pathlib, sys
from rich.console import Console
from soarbench.cli.run import run_whole
from soarbench.grid.expand import expand
from tests.launchers import benches

words = pathlib.Path("words.json")
bench = benches.quick if words.exists() else benches.slow
words.write_text(json.dumps(sys.argv[1:]))
sys.exit(run_whole(expand(sys.argv[4:]), console=Console(width=200), make_workbench=bench))
"""
#: A job takes all GPUs, so that none runs beside another.
ASKED = ("launcher=slurm", "launcher.nodes=2", "launcher.gpus_per_node=2", "launcher.time=10")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
Submit = Callable[..., str]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: Cluster) -> Path:
    """A folder to submit from, whose name has to be quoted."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    for key, value in slurm.environment.items():
        monkeypatch.setenv(key, value)
    return folder


@pytest.fixture
def submit(
    at: Path,
    overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Submit:
    """Submits a run whose program is another. -> The job's id."""

    def of(program: str, *words: str, stands_for: dict[str, str] = WITHOUT_RAY) -> str:
        (at / "program.py").write_text(program)
        calls = stands_for | {"soarbench": f'exec {sys.executable} program.py "$@"'}
        cases = "\n".join(f"{module}) {call};;" for module, call in calls.items())
        shim = at / "python"
        shim.write_text(SHIM.format(cases=cases, python=sys.executable))
        shim.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(shim))
            assert main(["run", *overrides, *ASKED, *words]) == 0
        said = " ".join(capsys.readouterr().out.split())
        match = re.match(r"submitted job (\d+) ", said)
        assert match is not None, said
        assert f"slurm-{match[1]}.out" in said
        return match[1]

    return of


def starts(at: Path) -> int:
    path = at / "starts"
    return len(path.read_text().split()) if path.exists() else 0


def log(at: Path, job: str) -> str:
    return (at / f"slurm-{job}.out").read_text()


def requeue_at_once(slurm: Cluster, job: str) -> None:
    """SLURM waits for two minutes until it starts a job again."""
    slurm.wait_for(lambda: slurm.job(job)["JobState"] == "PENDING")
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now+4")


def test_a_grid_on_two_nodes_ends_with_the_numbers_of_one_process_though_its_time_is_over(
    submit: Submit, at: Path, slurm: Cluster, overrides: list[str], tmp_path: Path
) -> None:
    """On the nodes' own Ray, which is another one after the job came back."""
    strange = "task.description=a b,c'd $HOME"
    words = ["tracking=none", "task=aesthetic", "method=sft", "device=cpu", strange]
    job = submit(GRID, *words, "launcher.options=--mem=5000", stands_for={})
    root = tmp_path / "runs"
    slurm.wait_for(lambda: bool(list(root.glob("trainings/*/checkpoint-*"))), seconds=300)
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    requeue_at_once(slurm, job)
    state = slurm.wait_for_state(job, *ENDED, seconds=300)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log(at, job)

    # As many workers of 4 GB as SLURM gives memory for, though there are two cores each.
    assert log(at, job).count("Ray: 2 nodes with 2 workers") == 2
    given = json.loads((at / "words.json").read_text())
    assert given[:3] == ["-m", "soarbench", "run"]
    assert strange in given
    assert given[-2] == "launcher=ray"
    assert not Path(f"/tmp/ray_{job}").exists()

    places = [f"output_dir={tmp_path / 'one'}", f"results_dir={tmp_path / 'one'}"]
    grid = expand([*overrides, *words, *places, "launcher.workers=1"])
    assert run_whole(grid, console=Console(quiet=True), make_workbench=benches.quick) == 0
    assert numbers(root) == numbers(grid.store.root)


def test_at_the_end_of_its_time_a_run_is_interrupted_and_goes_on_later(
    submit: Submit, at: Path, slurm: Cluster
) -> None:
    job = submit(INTERRUPTED)
    slurm.wait_for(lambda: starts(at) == 1)
    # As SLURM itself does by --signal=B:USR1.
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    requeue_at_once(slurm, job)
    state = slurm.wait_for_state(job, *ENDED)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log(at, job)
    assert starts(at) == 2
    assert f"the time is over; job {job} goes back to the queue" in log(at, job)


def test_a_run_that_does_not_stop_in_time_goes_on_later_all_the_same(
    submit: Submit, at: Path, slurm: Cluster
) -> None:
    job = submit(STUBBORN, "launcher.grace_seconds=2")
    slurm.wait_for(lambda: starts(at) == 1)
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    requeue_at_once(slurm, job)
    state = slurm.wait_for_state(job, *ENDED)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), log(at, job)


def test_a_run_that_ends_by_itself_does_not_come_back(
    submit: Submit, at: Path, slurm: Cluster
) -> None:
    """Nor where its time is over while it ends."""
    program = "import signal, sys; signal.signal(2, lambda *_: sys.exit(1)); open('on', 'w')"
    job = submit(f"{program}; signal.pause()")
    slurm.wait_for((at / "on").exists)
    slurm.call("scancel", "--signal=USR1", "--batch", job)
    state = slurm.wait_for_state(job, *ENDED)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "1:0", "0")


def test_a_cancelled_job_does_not_come_back(submit: Submit, at: Path, slurm: Cluster) -> None:
    job = submit(INTERRUPTED)
    slurm.wait_for(lambda: starts(at) == 1)
    slurm.call("scancel", job)
    state = slurm.wait_for_state(job, *ENDED)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0")


def test_a_lost_node_ends_no_job(submit: Submit, at: Path, slurm: Cluster) -> None:
    program = "import pathlib, time; p = pathlib.Path; p('starts').write_text('started')"
    job = submit(f"{program}\nwhile not p('go').exists(): time.sleep(0.1)")
    slurm.wait_for(lambda: starts(at) == 1 and "2 steps" in f"{len(steps(slurm, job))} steps")
    second = next(step for step, node in steps(slurm, job).items() if node == "n2")
    slurm.call("scancel", "--signal=KILL", second)
    slurm.wait_for(lambda: second not in steps(slurm, job))
    assert slurm.job(job)["JobState"] == "RUNNING"
    (at / "go").touch()
    assert slurm.wait_for_state(job, *ENDED)["JobState"] == "COMPLETED", log(at, job)


def steps(slurm: Cluster, job: str) -> dict[str, str]:
    """The node of each step but for the script itself."""
    rows = slurm.call("squeue", "--steps", "--noheader", f"--job={job}", "--format=%i %N")
    pairs = [row.split() for row in rows.splitlines()]
    return {step: node for step, node in pairs if step.rpartition(".")[2].isdigit()}


def test_nodes_that_do_not_join_are_waited_for_so_long(
    submit: Submit, at: Path, slurm: Cluster
) -> None:
    without = {"ray.scripts.scripts": "exec sleep 300"}
    job = submit(INTERRUPTED, "launcher.start_minutes=0.05", stands_for=without)
    assert slurm.wait_for_state(job, *ENDED)["ExitCode"] == "2:0"
    assert "0 of 2 nodes joined Ray" in log(at, job)
    assert "launcher.start_minutes=0.05" in log(at, job)
    assert starts(at) == 0


@pytest.mark.usefixtures("at")
def test_slurms_own_refusal(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *overrides, *ASKED, "launcher.partition=nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "invalid partition specified: nowhere" in line
