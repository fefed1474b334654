"""YAML of other packages and of the user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from soarbench.cli.app import main
from soarbench.common import plugins
from soarbench.common.errors import ConfigError
from soarbench.common.plugins import ConfFolder, conf_folders
from soarbench.config.compose import run_settings
from soarbench.config.folders import options, search_path
from soarbench.grid.expand import expand

GRID = (
    "name: mine\ndescription: one task\nmethods: [gentle]\ntasks: [aesthetic]\nbaseline: gentle\n"
)
METHOD = "# @package _global_\ndefaults:\n  - sft\n  - _self_\n\noptim:\n  learning_rate: 1.0e-6\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "my conf, with = signs"
    for name, text in (("grid/mine", GRID), ("method/gentle", METHOD)):
        path = root / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return root


def test_a_folder_of_the_user_brings_a_method_and_a_grid(folder: Path) -> None:
    plan = expand(["grid=mine", f"conf_dir={folder}", "budget=quick"])
    (cell,) = [cell for cell in plan.cells if cell.method_name == "gentle"]
    assert cell.optim is not None
    assert cell.optim.learning_rate == 1e-6
    assert f"conf_dir={folder}" in plan.arguments
    with pytest.raises(ConfigError, match="grid='mine' does not exist: choose one of ablation"):
        expand(["grid=mine"])


def test_what_does_not_exist_says_whose_the_others_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"name a grid: .*, mine, "):
        expand([f"conf_dir={folder}"])
    with pytest.raises(ConfigError, match=r"method='gentl' does not.*; gentle is of conf_dir=/"):
        run_settings([f"conf_dir={folder}", "method=gentl"])


def test_another_package_brings_yaml_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = (*plugins._of_packages(), ConfFolder(folder, "my_package.conf"))
    monkeypatch.setattr(plugins, "_of_packages", lambda: folders)
    assert "gentle" in options("method")
    assert expand(["grid=mine", "budget=quick"]).cells[-1].method_name == "gentle"
    with pytest.raises(ConfigError, match=r"gentle is of my_package\.conf"):
        run_settings(["method=gentl"])


@pytest.mark.parametrize("words", [["grid=mine"], ["method=gentle"], []])
def test_a_file_that_is_no_yaml_is_named_in_one_line(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.rglob("*.yaml"):
        path.write_text(f"{path.read_text()}\ntitle: mine: of two colons\n")
    given = [*words, f"conf_dir={folder}"]
    assert main(["run", *given, "--dry-run"] if words else ["ls", "grids", *given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "mine.yaml" in error
    assert re.search(r"mapping values are not allowed here.* line \d+", error)


def test_a_class_by_a_relative_path_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["grid=main_table", "judge.aesthetic._target_=.my.Judge", "--dry-run"]
    assert main(["run", *words]) == 2
    assert "'.my.Judge' cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("method/sft", r"^method/sft\.yaml of conf_dir=/.* soarbench's own, which is used; rename"),
        ("method/mine", r"^method/mine\.yaml of conf_dir=.* of other\.conf's own, which is used"),
        (
            "recipe/lab/stf",
            r"^recipe/lab/stf\.yaml of .*: there is no method 'stf', so.*'sft'",
        ),
        ("recipe/lba/sft", "there is no model 'lba', so that nobody reads it; did you mean 'lab'"),
        ("recipe/lab/gentle/aesthetc", "there is no task 'aesthetc', .*did you mean 'aesthetic'"),
    ],
)
def test_a_file_that_nobody_would_read_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, message: str
) -> None:
    other = tmp_path / "other/method/mine.yaml"
    other.parent.mkdir(parents=True)
    other.write_text(METHOD)
    folders = (*plugins._of_packages(), ConfFolder(other.parents[1], "other.conf"))
    monkeypatch.setattr(plugins, "_of_packages", lambda: folders)
    # Twice the same folder is no conflict, nor is a recipe of what is there.
    words = [f"conf_dir={folder}"] * 2
    written(folder, "recipe/lab/gentle/aesthetic")
    assert len(search_path(words)) == len(search_path([])) + 1
    written(folder, file)
    with pytest.raises(ConfigError, match=message):
        search_path(words)


def written(folder: Path, file: str) -> None:
    path = folder / f"{file}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(METHOD)


def test_a_folder_without_yaml_of_a_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, "pictures/sft")
    assert main(["run", "grid=main_table", f"conf_dir={tmp_path}", "--dry-run"]) == 2
    assert "holds no YAML in a folder of a kind; name the folder" in capsys.readouterr().err


def test_a_method_without_its_first_line_is_named(folder: Path) -> None:
    path = folder / "method/gentle.yaml"
    path.write_text(METHOD.partition("\n")[2])
    with pytest.raises(ConfigError, match=r"^method/gentle\.yaml of .* '# @package _global_', so"):
        expand(["grid=mine", f"conf_dir={folder}"])


@pytest.mark.parametrize("key", ["budget.stepz", "bugdet.steps"])
def test_a_reference_to_no_key_is_named_with_its_place(folder: Path, key: str) -> None:
    path = folder / "method/gentle.yaml"
    path.write_text(f"{METHOD}training:\n  steps: ${{{key}}}\n")
    message = rf"^training\.steps: \$\{{{key}\}} refers to no key; did you mean .*'budget\.steps'"
    with pytest.raises(ConfigError, match=message):
        expand(["grid=mine", f"conf_dir={folder}"])


def test_a_budget_that_a_task_does_not_state_is_named() -> None:
    message = (
        r"steps: nothing states task\.published_steps with budget=published, model=lab, task=\w+; "
        r"give it \(task\.published_steps=VALUE\), or .* budget=standard say$"
    )
    with pytest.raises(ConfigError, match=message):
        expand(["grid=main_table", "budget=published"])
    assert expand(["grid=main_table", "budget=published", "task.published_steps=480"]).cells


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "grid=main_table", "conf_dir=/nowhere"]) == 2
    assert "conf_dir=/nowhere: no such folder" in capsys.readouterr().err
    assert conf_folders()[0].source == ""
