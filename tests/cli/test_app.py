"""The command line answers at once, and in one line where something is wrong."""

from __future__ import annotations

import errno
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from baselines.loop.disk import StorageError, writing
from soarbench.cli.app import function_of, main, options_of
from soarbench.cli.commands import COMMANDS
from soarbench.cli.help import default_of
from soarbench.common.errors import UserError
from soarbench.common.files import locked
from soarbench.common.strict import typed_fields
from soarbench.config.folders import options

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
    assert first_words == grids | judging | {
        "plan",
        "bench",
        "soak",
        "data",
        "lab",
        "ls",
        "completion",
    }


@pytest.mark.parametrize("name", [*COMMANDS, "data", "lab"])
def test_every_command_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "usage: python -m soarbench" in text
    # Examples are to be copied in one piece.
    prose, _, _ = text.partition("\nexamples:\n")
    assert name in ("data", "lab") or max(map(len, prose.splitlines())) <= 80
    kind = options_of(function_of(name)) if name in COMMANDS else None
    for key, (_, entry) in typed_fields(kind).items() if kind else ():
        line = re.search(rf"^  {key}[\w.]*=\s+(.*(?:\n {{9}}.*)*)", text, re.M)
        assert line is not None, key
        # Keys of keys have defaults of their own.
        default = "null" if key == "suites" else default_of(entry)
        assert " ".join(line[1].split()).endswith(f"Default: {default}" if default else "."), key


@pytest.mark.parametrize(
    "arguments",
    [["--help", "compare"], ["help", "compare"], ["compare", "-h", "soar"], ["compare", "--help"]],
)
def test_help_may_stand_anywhere(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("usage: python -m soarbench compare A B [--json]")


def test_help_lists_choices_and_settings_with_what_they_are_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"^  budget= +published, quick, standard, tuning\. Default: quick$", text, re.M
    )
    assert re.search(r"^  seeds= +Training seeds\. Default: \$\{budget\.seeds\}$", text, re.M)
    assert re.search(r"^  optim\.KEY= .*Keys: learning_rate,", text, re.M)
    assert main(["ui", "--help"]) == 0
    assert "optim" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("plan", ["grid= .*Default: reward_specific", "task= .*Default: the grid's first",
                  "budget= .*Default: quick", "reward= .*Default: .*", "gpu= .*`?ls gpus.*"]),
        ("data check", ["model= .*Default: sd35_medium", "data= .*Default: jsonl"]),
        ("bench full_size", ["method= .*Default: soar", "device= .*Default: cpu",
                             "training.KEY= .*Default: training.batch_size=1 .*"]),
        ("bench gpu", ["model= .*Default: sd35_medium", "device= .*Default: cuda"]),
        ("bench grid", ["grid= .*Default: reward_specific", "launcher.KEY= .*num_processes=null"]),
        ("evaluate", ["model= .*Default: that of the suite's judges"]),
        ("run", ["conf_dir= .*", "model= .*Default: lab"]),
        ("doctor", ["conf_dir= .*"]),
    ],
)  # fmt: skip
def test_help_says_what_a_command_chooses_itself(
    name: str, lines: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "1000")
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for line in lines:
        assert re.search(rf"^  {line}$", text, re.M), line


def test_help_on_what_reads_no_yaml_names_no_folder_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lab", "card", "--help"]) == 0
    assert "conf_dir" not in capsys.readouterr().out


def test_run_alone_lists_the_grids(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(options("grid"))]] == options("grid")


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
        (["train"], "there is no command 'train'; choose one of run, ls, report"),
        (["run", "budget=quick"], "name a grid: grid=NAME, one of ablation, anchors, main_table"),
        (["run", "quick"], "'quick' needs its key: write budget=quick"),
        (["run", "grid=reward_specific", "lr=1"], "did you mean 'optim.learning_rate'"),
        (["run", "grid=reward_specific", "optim.lr=1"], "did you mean 'optim.learning_rate'"),
        (["run", "--grid", "reward_specific", "--lr=1"], "did you mean 'optim.learning_rate'"),
        (["run", "grid=reward_specific", "steps=1"], "did you mean 'budget.steps'"),
        (["run", "grid=reward_specific", "reward=os.path.nothere"], "has no attribute 'nothere'"),
        (["run", "grid=reward_specific", "reward=os.path.join"], "called with prompts=, images="),
        (["run", "grid=reward_specific", "reward=evaluators.base.Evaluator"], "lacks canaries"),
        (["run", "grid=reward_specific", "--dry-run", "device=cuda:99"], "this machine has "),
        (
            ["run", "grid=reward_specific", "--dry-run", "results_dir=/proc/x"],
            "results_dir=/proc/x cannot be written to",
        ),
        (
            ["run", "grid=reward_specific", "--dry-run", "output_dir=/proc/x", "--json"],
            "output_dir=/proc/x cannot be written to",
        ),
        (["bench", "grid", "gpus=[9999999999999]"], "must be in 1..100000"),
        (["bench", "grid", "load_seconds=inf"], "load_seconds=inf: must be finite"),
        (["leaderboard", "exports=[x]", "output=."], "output=. is a folder; name a file"),
        (["ls", "gridz"], "did you mean 'grids'"),
        (["run", "grid=reward_specifc"], "did you mean 'reward_specific'?"),
        (["run", "--dry"], "unrecognized arguments: --dry; did you mean --dry-run? see 'python -m"),
        (["run", "--bogus"], "unrecognized arguments: --bogus"),
        (["report", "grid=none"], "grid='none' does not exist"),
        (["bench", "budget=none"], "budget='none' does not exist"),
        (["bench", "judges", "budget=quick"], "there is no key 'budget' here; did you mean"),
        (["evaluate"], "suite= is missing"),
        (["evaluate", "suite=geneval", "model=sd35"], "is neither one of "),
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


def test_a_terminal_is_told_what_takes_seconds_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []

    def loaded(_name: str) -> None:
        said.append(capsys.readouterr().err)
        raise UserError("enough")

    monkeypatch.setattr("soarbench.cli.app.function_of", loaded)
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=is_terminal: answer)
        assert main(["lab", "sheet"]) == 2
    error = "soarbench: error: enough\n"
    assert said == ["", f"{error}lab sheet: loading the laboratory's model ...\n"]


def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_args: object, **_options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("soarbench.cli.run.run", interrupted)
    assert main(["run", "grid=reward_specific"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_a_reader_who_has_enough_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_args: object, **_options: object) -> int:
        with writing(Path("/somewhere/table.csv")):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("soarbench.cli.run.run", full)
    assert main(["run", "grid=reward_specific"]) == 2
    assert capfd.readouterr().err == (
        "soarbench: error: disk full while writing /somewhere/table.csv; make room, then give the "
        "same command again\n"
    )
    words = [sys.executable, "-m", "soarbench", "ls", "grids"]
    for command in (words, [*words, "--help"]):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as asked:
            assert asked.stdout is not None
            assert asked.stderr is not None
            asked.stdout.close()
            assert asked.stderr.read() == ""
            assert asked.wait() == 1


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
    # Of the processor, so that a busy machine does not fail the test. It is two seconds, nearly
    # all Hydra's; shared processors have taken 5.4.
    assert float(done.stdout.splitlines()[-1]) < 12.0


def test_a_python_without_the_dependencies_is_one_line() -> None:
    # Without site-packages, as the system's Python is after ``make run``.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "soarbench", "ls"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "has no module 'typing_extensions'" in done.stderr
    assert ". .venv/bin/activate" in done.stderr


def test_no_command_loads_torch_to_explain_itself_or_to_print_its_settings() -> None:
    code = (
        "import sys\n"
        "from soarbench.cli.app import main\n"
        "from soarbench.cli.commands import COMMANDS\n"
        "for name in COMMANDS:\n"
        "    main([*name.split(), '--help'])\n"
        "    main([*name.split(), '--cfg'])\n"
        "    heavy = {'torch', 'transformers', 'mlflow', 'matplotlib'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_is_one_line_whatever_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Such an error names no file."""

    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("soarbench.lab.world.draw.draw_suite", full)
    assert main(["lab", "draw", f"output={tmp_path / 'drawn'}"]) == 2
    text = capsys.readouterr().err
    assert text.endswith("make room, then give the same command again\n")
    assert text.count("\n") == 1


def test_a_lock_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    said = f"disk full while writing {tmp_path}/.lock; make room"
    with pytest.raises(StorageError, match=said), locked(tmp_path):
        pass
