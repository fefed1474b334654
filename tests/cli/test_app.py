"""The command line answers at once, and in one line where something is wrong."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from soarbench.cli.app import COMMANDS, function_of, main, options_of

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "diffusers", "mlflow", "pandas", "matplotlib", "scipy", "numpy")


def test_help_lists_exactly_the_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in text
    grids = {"run", "status", "report", "compare", "export", "diagnose", "sync", "ui"}
    grids |= {"publish", "leaderboard"}
    judging = {"evaluate", "score", "doctor", "fetch"}
    first_words = {name.split()[0] for name in COMMANDS}
    assert first_words == grids | judging | {"plan", "bench", "soak", "data", "lab"}


@pytest.mark.parametrize("name", [*COMMANDS, "data", "lab"])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    assert "usage: python -m soarbench" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_with_its_options(name: str) -> None:
    command, function = COMMANDS[name], function_of(name)
    parameters = inspect.signature(function).parameters
    has_options = any(parameter.endswith("options") for parameter in parameters)
    assert (options_of(function) is not None) == has_options
    assert len(parameters) >= len(command.names) + has_options + 2 + len(command.flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "there is no command 'train'; choose one of run, report"),
        (["run"], "name a grid. grid=ablation"),
        (["run", "grid=reward_specifc"], "did you mean 'reward_specific'?"),
        (["run", "--dry"], "unrecognized arguments: --dry; see 'python -m soarbench run --help'"),
        (["run", "--bogus"], "unrecognized arguments: --bogus"),
        (["report", "grid=none"], "grid='none' does not exist"),
        (["bench", "budget=none"], "budget='none' does not exist"),
        (["bench", "judges", "budget=quick"], "there is no key 'budget' here; did you mean"),
        (["evaluate"], "suite= is missing"),
        (["evaluate", "suite=geneval", "model=sd35"], "neither one of lab"),
        (["lab", "demolish"], "say what lab is to do: lab build, card, sheet, draw"),
        (["lab", "build", "stge=base"], "did you mean 'stage'?"),
        (["lab", "card", "x=1"], "there is no key 'x' here; there are none"),
        (["ui", "output_dir=/nowhere/at/all"], "nothing was logged there yet"),
        (["ui", "port=-1"], "port=-1: must be in 1..65535"),
        (["ui", "port=99999"], "port=99999: must be in 1..65535"),
        (["lab", "sheet", "output=a.xyz"], "output=a.xyz: name a picture, e.g. FILE.png"),
        (["lab", "sheet", "output=/proc/a/b.png"], "output=/proc/a cannot be written to"),
        (["lab", "draw", "output=/proc/x"], "output=/proc cannot be written to"),
        (["lab", "draw", "output=x", "images_per_prompt=10000000"], "must be in 1..1000"),
        (["ui", "foo=1"], "there is no key 'foo' here; did you mean"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("soarbench: error: ")
    assert text.count("\n") == 1
    assert message in text


def test_nothing_at_all_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage:" in capsys.readouterr().out


def test_the_order_of_flags_and_settings_does_not_matter(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", overrides[0], "--dry-run", *overrides[1:]]) == 0
    assert "sft-aesthetic-seed0" in capsys.readouterr().out


def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_args: object, **_options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("soarbench.cli.run.run", interrupted)
    assert main(["run", "grid=reward_specific"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "grid=reward_specific", "method.aux_wieght=1"],
        ["run", "grid=reward_specific", "training.save_steps=3"],
        ["lab", "build", "foo"],
        ["evaluate", "suite=genevl"],
        ["evaluate", "suite=geneval", "model.resolutoin=1"],
        ["score", "suite=geneval", "images=/nowhere"],
    ],
)
def test_help_and_configuration_errors_load_nothing_heavy(arguments: list[str]) -> None:
    # The judges' configurations come with numpy, a tenth of a second.
    allowed = ["numpy"]
    code = (
        "import sys, time\n"
        "from soarbench.cli.app import main\n"
        f"main({arguments!r})\n"
        f"heavy = set({HEAVY!r}) - set({allowed!r})\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "print(time.process_time())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # Of the processor, so that a busy machine does not fail the test.
    assert float(done.stdout.splitlines()[-1]) < 4.0
