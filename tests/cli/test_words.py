"""The one reader of ``key=value``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from soarbench.cli.app import main
from soarbench.cli.words import read
from soarbench.common.errors import ConfigError
from soarbench.config.keys import Options


@dataclass(frozen=True, kw_only=True)
class Inner:
    judges: tuple[str, ...] = ()
    prompts: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Example(Options):
    example: ClassVar[str] = "do path=DIR"
    settings: ClassVar[tuple[str, ...] | None] = ("model", "conf_dir")
    renamed: ClassVar[Mapping[str, str]] = {"folder": "path"}
    path: Path
    text: str | None = None
    count: int = 1
    share: float = 0.5
    near: bool = False
    kind: Literal["exact", "found"] = "exact"
    names: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    suites: Mapping[str, Inner] = field(default_factory=dict)
    judge: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def example(*words: str) -> Example:
    options, settings = read(Example, ["path=/x", *words])
    assert settings == []
    return options


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("path=~", "path", Path.home()),
        ("path=a b,c=d/~é", "path", Path("a b,c=d/~é")),
        ("path=C:\\my data\\x,y", "path", Path("C:\\my data\\x,y")),
        ("text=a, b: {c} [d] = #e", "text", "a, b: {c} [d] = #e"),
        ("text='quoted, with \"both\"'", "text", 'quoted, with "both"'),
        ("text=''", "text", ""),
        ("text=null", "text", None),
        ("text='null'", "text", "null"),
        ("text=12", "text", "12"),
        ("count=3", "count", 3),
        ("share=1e-3", "share", 0.001),
        ("share=1", "share", 1.0),
        ("near=true", "near", True),
        ("kind=found", "kind", "found"),
        ("names=a", "names", ("a",)),
        ("names=a,b", "names", ("a", "b")),
        ("names=[a,'b c']", "names", ("a", "b c")),
        ("thresholds={a:1,b:2.5}", "thresholds", {"a": 1.0, "b": 2.5}),
        ("thresholds.a=1", "thresholds", {"a": 1.0}),
        ("suites.x.judges=a,b", "suites", {"x": Inner(judges=("a", "b"))}),
        ("suites.x.prompts=/p q", "suites", {"x": Inner(prompts=Path("/p q"))}),
        ("judge.ocr.side=64", "judge", {"ocr": {"side": 64}}),
        ("judge.ocr.dir=~/x,y", "judge", {"ocr": {"dir": "~/x,y"}}),
    ],
)
def test_values_have_the_type_of_their_field(word: str, name: str, value: object) -> None:
    assert getattr(example(word), name) == value


def test_the_last_of_two_counts_and_settings_are_passed_on() -> None:
    options, settings = read(Example, ["count=1", "model.path=/m", "path=/x", "count=2"])
    assert options.count == 2
    assert settings == ["model.path=/m"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cuont=1", "cuont=1: there is no key 'cuont' here; did you mean 'count'"),
        ("modle.path=x", "did you mean 'model.path'"),
        ("budget.steps=3", "there is no key 'budget.steps' here"),
        ("folder=/x", "folder=/x: this is called path=... now, as everywhere"),
        ("count=many", "count='many' must be an integer"),
        ("count=true", "count=True must be an integer"),
        ("share=nan", "share=nan: must be a number"),
        ("near=1", "near=1 must be true or false"),
        ("kind=all", "kind='all' must be one of exact, found"),
        ("count=1,2", "take several values"),
        ("count=", "count= is empty"),
        ("suites.x.jugdes=a", "did you mean 'suites.NAME.judges'"),
        ("thresholds.a=high", "thresholds.a='high' must be a number"),
        ("path=~nobody-here/x", "there is no such user"),
        ("path=/dev/zero", "is a pipe or a device"),
    ],
)
def test_what_cannot_be_read_is_one_line(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        example(word)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_missing_word_comes_with_an_example() -> None:
    with pytest.raises(ConfigError, match=r"path= is missing, e\.g\. do path=DIR"):
        read(Example, [])


#: A line of each command that is complete, so that one more word is what is wrong.
LINES = {
    "run": ["grid=reward_specific"],
    "report": ["grid=reward_specific"],
    "score": ["suite=geneval", "images=/nowhere"],
    "evaluate": ["suite=lab_geneval"],
    "data check": ["data.path=/nowhere"],
    "data score": ["data.path=/nowhere", "judge=ocr", "output=/tmp/x"],
    "data filter": ["input=/nowhere", "output=/tmp/x", "thresholds.a=1"],
    "plan": ["method=sft"],
    "bench": [],
    "export": ["grid=reward_specific", "output=/nowhere"],
    "compare": ["soar", "sft", "grid=reward_specific"],
    "diagnose": ["grid=reward_specific"],
    "lab build": [],
    "lab draw": ["output=/nowhere"],
    "ui": [],
}
WRONG = {
    "nothing": "",
    "no key": "=x",
    "no value": "seeds=",
    "no sign": "seeds",
    "unicode": "ключ=значение",
    "long key": "k" * 10_000 + "=1",
    "long value": "seeds=" + "x" * 10_000,
    "brackets": "seeds=[[{",
    "newline": "seeds=[0\n1]",
    "interpolation": "output_dir=${nowhere}",
    "deep": "a.b.c.d.e.f.g=1",
    "plus": "+seeds=1",
    "dots": "..=1",
}


@pytest.mark.parametrize("word", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("command", LINES)
def test_adversarial_words_never_trace_back(
    command: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *LINES[command], word]) == 2
    text = capsys.readouterr().err
    assert text.startswith("soarbench: error: ")
    assert text.count("\n") == 1
    assert len(text) < 1000


@pytest.mark.parametrize("command", LINES)
def test_an_unknown_key_answers_with_three_of_the_commands_own(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *LINES[command], "outptu=1"]) == 2
    text = capsys.readouterr().err
    assert "there is no key 'outptu' here; " in text
    assert text.count("'") <= 2 * (1 + 3)
    if command in (
        "score",
        "evaluate",
        "export",
        "lab draw",
        *(f"data {n}" for n in ("score", "filter")),
    ):
        assert "did you mean 'output'" in text


@pytest.mark.parametrize(
    "words",
    [
        ["score", "suite=geneval", "images={pipe}"],
        ["score", "suite=ocr", "images={folder}", "suites.ocr.prompts={pipe}"],
        ["evaluate", "suite=ocr", "suites.ocr.prompts={pipe}"],
        ["run", "grid=reward_specific", "model=sd35_medium", "suites.drawbench.prompts={pipe}"],
        ["run", "grid=reward_specific", "data=jsonl", "data.path={pipe}"],
        ["data", "filter", "input={pipe}", "output={folder}/out", "thresholds.a=1"],
        ["score", "suite=geneval", "images=" + "x" * 10_000],
        ["run", "grid=reward_specific", "data=jsonl", "data.path=" + "x" * 10_000],
        ["run", "grid=reward_specific", "output_dir=~nobody-here/x"],
    ],
)
def test_paths_that_cannot_be_read_neither_hang_nor_trace_back(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    texts = {"{pipe}": str(tmp_path / "pipe"), "{folder}": str(tmp_path)}
    for name, text in texts.items():
        words = [word.replace(name, text) for word in words]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert text.startswith("soarbench: error: ")
    assert text.count("\n") == 1
