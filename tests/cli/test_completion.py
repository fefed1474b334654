"""Scripts that complete the console command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from soarbench.cli import completion
from soarbench.cli.app import main
from soarbench.cli.commands import COMMANDS
from soarbench.config.folders import options

WORDS = {
    "": ["run", "lab", "bench"],
    "run": ["--dry-run", "grid=tuning", "grid=ablation", "optim.learning_rate=", "output_dir="],
    "bench": ["grid", "seeds="],
    "bench grid": ["gpus="],
    "lab": ["draw"],
    "lab draw": ["suite="],
}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("soarbench ", ["bench ", "lab ", "run "]),
        ("soarbench r", ["run "]),
        ("soarbench run g", ["grid="]),
        # bash replaces what follows the sign.
        ("soarbench run grid=", ["ablation ", "tuning "]),
        ("soarbench run x=1 grid=tu", ["tuning "]),
        ("soarbench run o", ["optim.learning_rate=", "output_dir="]),
        ("soarbench run --", ["--dry-run "]),
        ("soarbench run output_dir=", []),
        ("soarbench bench ", ["grid ", "seeds="]),
        ("soarbench bench grid ", ["gpus="]),
        ("soarbench lab draw s", ["suite="]),
    ],
)
def test_bash_is_offered_what_may_follow(typed: str, offered: list[str], tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(completion.script("bash", WORDS))
    code = (
        'source "$1"; COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}; _soarbench; '
        '((${#COMPREPLY[@]})) && printf "%s\\n" "${COMPREPLY[@]}"; true'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", path, typed],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == offered


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_shell_itself_takes_its_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "script").write_text(completion.script(shell, WORDS))
    subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_every_command_group_and_key_is_completed() -> None:
    # A single module of these loads torch.
    words = completion.words_by_command()
    assert set(words[""]) == {name.split()[0] for name in COMMANDS}
    assert words.keys() >= COMMANDS.keys()
    assert {f"grid={name}" for name in options("grid")} <= set(words["run"])
    assert {"optim.learning_rate=", "method.aux_weight=", "seeds=", "--json"} <= set(words["run"])
    assert {"suite=", "coverage="} <= set(words["score"])
    assert not {"optim.learning_rate=", "grid=tuning"} & set(words["score"])


def test_another_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "choose one of bash, fish, zsh" in capsys.readouterr().err
