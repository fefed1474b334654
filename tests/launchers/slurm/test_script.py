"""What ``launcher=slurm`` renders and refuses, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from soarbench.cli.app import main
from soarbench.grid.expand import expand
from soarbench.launchers import slurm
from soarbench.launchers.base import Submitter
from soarbench.launchers.slurm import seconds_of

ASKED = ("launcher=slurm", "launcher.nodes=2", "launcher.time=12:00:00")


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit from, whose name has to be quoted."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def script(overrides: list[str], at: Path) -> Callable[..., str]:
    """What is rendered where ``at`` is the folder."""
    assert Path.cwd() == at

    def render(*words: str) -> str:
        grid = expand([*overrides, *ASKED, *words])
        queue = grid.settings.launcher.build()
        assert isinstance(queue, Submitter)
        return queue.script(grid)

    return render


def sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Puts an ``sbatch`` on the path, before any other."""
    path = folder / "bin" / "sbatch"
    path.parent.mkdir()
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["run", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def options(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("#SBATCH")]


def test_a_dry_run_prints_the_script_and_beside_it_the_table(
    script: Callable[..., str], overrides: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *overrides, *ASKED, "--dry-run"]) == 0
    output = capfd.readouterr()
    assert output.out == script()
    assert "base-seed0" in output.err


def test_a_script_asks_for_what_was_asked(script: Callable[..., str]) -> None:
    asked = options(
        script(
            "launcher.gpus_per_node=8",
            "launcher.cpus_per_task=64",
            "launcher.partition=a100",
            "launcher.account=flow",
            "launcher.options=--qos=high --constraint=a&b",
            "launcher.grace_seconds=90",
        )
    )
    assert "#SBATCH --nodes=2 --ntasks-per-node=1" in asked
    assert "#SBATCH --gres=gpu:8" in asked
    assert "#SBATCH --cpus-per-task=64" in asked
    assert "#SBATCH --time=12:00:00" in asked
    assert "#SBATCH --partition=a100" in asked
    assert "#SBATCH --account=flow" in asked
    assert "#SBATCH --qos=high --constraint=a&b" in asked
    assert "#SBATCH --requeue --no-kill --signal=B:USR1@90" in asked
    assert not any("--exclusive" in line for line in asked)


def test_without_cores_whole_nodes_are_asked_for(script: Callable[..., str]) -> None:
    asked = options(script())
    assert "#SBATCH --exclusive --mem=0" in asked
    assert not any(word in line for line in asked for word in ("gres", "partition", "account"))


def test_the_job_runs_the_same_words_on_ray(script: Callable[..., str]) -> None:
    """As bash reads them: nothing of a word is expanded or split."""
    strange = "results_dir=a b,c'd $HOME `id` \\ \" *"
    text = script(strange, "launcher.num_processes=2", "launcher.partition=p")
    (line,) = [line for line in text.splitlines() if line.startswith("words=(")]
    shown = subprocess.run(
        ["bash", "-c", f'{line}\nprintf "%s\\0" "${{words[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    words = shown.stdout.split("\0")[:-1]
    assert strange in words
    assert words[0] == "grid=reward_specific"
    assert words[-2:] == ["launcher=ray", "launcher.num_processes=2"]
    assert sum(word.startswith("launcher") for word in words) == 2
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert " launcher.num_processes=null" in script("launcher.num_processes=null")
    assert f"python={sys.executable}" in text


def test_a_template_of_ones_own(script: Callable[..., str], at: Path) -> None:
    (at / "mine.sh").write_text("#!/bin/sh\n# {{ nodes }} of {{ job_name }}\n")
    text = script("launcher.template=mine.sh")
    assert text == "#!/bin/sh\n# 2 of soarbench-reward_specific\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n{{ nodez }}", "'nodez' is undefined; there are account, "),
        ("\n\n{% if %}", ", line 3: "),
        (None, "No such file"),
        ("{{ nodes / 0 }}", "division by zero"),
    ],
)
def test_a_template_that_cannot_be_rendered(
    text: str | None,
    says: str,
    overrides: list[str],
    at: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if text is not None:
        (at / "mine.sh").write_text(text)
    line = refusal([*overrides, *ASKED, "launcher.template=mine.sh", "--dry-run"], capsys)
    assert line.startswith("soarbench: error: launcher.template=mine.sh")
    assert says in line


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("12:00:00", 43_200),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("1-12:30:15", 131_415),
        ("0", None),
        ("UNLIMITED", None),
    ],
)
def test_time_is_read_as_slurm_does(time: str, seconds: float | None) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("launcher.time=12h", "launcher.time=12h: SLURM reads 12:00:00, 90 (minutes)"),
        ("launcher.time=1:2:3:4", "SLURM reads"),
        ("launcher.time=2", "launcher.time=2: is over before launcher.grace_seconds=120 are"),
        ("launcher.nodes=0", "launcher.nodes=0: must be at least 1"),
        ("launcher.gpus_per_node=0", "launcher.gpus_per_node=0: must be at least 1"),
        ("launcher.partition=a b", "launcher.partition='a b': "),
        ("launcher.options=--qos=a\n#SBATCH", "launcher.options="),
        ("device=cuda:1", "device=cuda:1: with launcher=slurm a job is given its GPU; use auto"),
        ("launcher.node=2", "did you mean 'launcher.nodes'"),
    ],
)
def test_what_slurm_would_not_take(
    word: str, says: str, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refusal([*overrides, *ASKED, word, "--dry-run"], capsys)


def test_more_gpus_than_are_asked_for_never_start(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*overrides, *ASKED, "training.batch_size=8", "launcher.gpus_per_node=2", "--dry-run"]
    says = "launcher.num_processes=8: launcher.nodes=2 of launcher.gpus_per_node=2 have 4 GPUs"
    assert says in refusal([*words, "launcher.num_processes=8"], capsys)
    assert main(["run", *words, "launcher.num_processes=4"]) == 0


def test_without_sbatch_there_is_still_the_script(
    overrides: list[str],
    at: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(at))
    line = refusal([*overrides, *ASKED], capsys)
    assert "no sbatch; --dry-run prints the script" in line


def test_what_sbatch_says_is_said_in_one_line(
    overrides: list[str],
    at: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sbatch(at, monkeypatch, "echo 'sbatch: error: invalid partition: p' >&2", "exit 1")
    line = refusal([*overrides, *ASKED], capsys)
    assert line.startswith("soarbench: error: sbatch: error: invalid partition: p (")


def test_a_controller_that_does_not_answer(
    overrides: list[str],
    at: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sbatch(at, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(slurm, "_SECONDS_TO_SUBMIT", 0.2)
    assert "sbatch does not answer" in refusal([*overrides, *ASKED], capsys)


def test_nothing_that_cannot_run_is_submitted(
    overrides: list[str],
    at: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sbatch(at, monkeypatch, f"touch '{at}/asked'")
    line = refusal([*overrides, *ASKED, "model=sd35_medium", "data=jsonl", "ema.every=1"], capsys)
    assert "suites.drawbench.prompts=FILE" in line
    assert not (at / "asked").exists()


def test_only_a_run_is_submitted(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", *overrides, *ASKED]) == 2
    assert "launcher=slurm: only 'run' is submitted" in capsys.readouterr().err
