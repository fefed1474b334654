"""The documentation: the command line and zsh take its commands, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from soarbench.cli.app import function_of, main, options_of
from soarbench.cli.commands import COMMANDS
from soarbench.cli.words import read
from soarbench.common.plugins import OWN
from soarbench.config.compose import run_settings
from soarbench.planning.demand import PlanOptions, read_request
from tools import docs

ROOT = docs.ROOT
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(docs.DOCS.rglob("*.md")),
    ROOT / "results/lab/README.md",
]  # fmt: skip
START = "python -m soarbench "
#: What zsh expands, or takes for the end of a command, outside of quotes.
SPECIAL = re.compile(r"[][{}*?()<>~$!;&|^]|(^|\s)#")
#: Of another person's package, which tests/plugin runs.
FOREIGN = "conf_dir=toyplugin/conf"

MY_PACKAGE = """
from evaluators.base import Evaluator, Score


def my_reward(prompts, images, **columns):
    return [0.0 for _ in images]


class MyEvaluator(Evaluator):
    def score(self, samples):
        return [Score(sample_id=one.sample_id, value=0.0) for one in samples]

    def canaries(self):
        return ()
"""


def commands_of(text: str) -> list[str]:
    """Commands on lines of their own, and those between backticks."""
    lines = re.findall(rf"^ *{START}(.*)$", text, re.M)
    return [one.strip() for one in [*lines, *re.findall(rf"`{START}([^`]*)`", text)]]


COMMANDS_SHOWN = sorted(
    {
        command
        for page in PAGES
        for command in commands_of(page.read_text())
        if "..." not in command and FOREIGN not in command and "COMMAND" not in command
    }
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of."""
    row = {"image": "0.png", "prompt": "a cat", "caption": "a cat", "scores": {"aesthetic": 7.0}}
    for name in ("rows", "scored", "kept"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("prompts", "drawbench", "ocr"):
        (tmp_path / f"{name}.txt").write_text('a sign that says "CAT"\n')
    (tmp_path / "my_package.py").write_text(MY_PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS_SHOWN) > 50
    shown = {next((n for n in sorted(COMMANDS, key=len, reverse=True) if c.startswith(n)), c)
             for c in COMMANDS_SHOWN}  # fmt: skip
    assert {"run", "report", "compare", "score", "evaluate", "plan", "data check"} <= shown


@pytest.mark.parametrize("command", COMMANDS_SHOWN)
def test_zsh_takes_the_command(command: str) -> None:
    assert not SPECIAL.search(re.sub(r"'[^']*'|\"[^\"]*\"", "", command)), "quote it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_zsh_takes_the_words_between_backticks(page: Path) -> None:
    words = re.findall(r"`([\w.]+=[][{}][^`]*)`", docs.CODE.sub("", page.read_text()))
    assert words == [], "quote them"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS_SHOWN)
def test_the_command_line_takes_the_command(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder
    name, words, flags = parted(shlex.split(command))
    assert set(flags) <= {*COMMANDS[name].flags, "--help", "--version"}
    if name == "run":
        # Without a grid it lists them.
        expected = 0 if any(word.startswith("grid=") for word in words) else main(["run"])
        # Of two values the last counts: one seed's cells are as good as those of five.
        has_many = any(word.startswith(("seeds=[0,", "budget=standard")) for word in words)
        dry = ["run", *words, *["seeds=[0]"] * has_many, *sorted({*flags, "--dry-run"})]
        assert main(dry) == expected, capsys.readouterr().err
        return
    kind = options_of(function_of(name))
    names = COMMANDS[name].names
    given = words if names == ("NAME ...",) else words[len(names) :]
    pairs = [word for word in given if "=" in word]
    assert len(pairs) == len(given) or names == ("NAME ...",)
    options, settings = read(kind, pairs) if kind else (None, pairs)
    if isinstance(options, PlanOptions):
        read_request(options, settings)
    elif name not in ("score", "evaluate") and not name.startswith("data"):
        run_settings(settings)


def parted(words: list[str]) -> tuple[str, list[str], list[str]]:
    """A command's name, its words and its flags."""
    pair = " ".join(words[:2])
    name = pair if pair in COMMANDS else words[0]
    rest = words[len(name.split()) :]
    return (
        name,
        [w for w in rest if not w.startswith("--")],
        [w for w in rest if w.startswith("--")],
    )


def test_the_readme_is_short_and_says_where_to_go() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.encode()) <= 8192
    targets = {target.partition("#")[0] for target in docs.targets(readme)}
    assert {"results/lab/README.md", "docs/faq.md", "docs/glossary.md"} <= targets
    assert all((ROOT / target).is_file() for target in targets if not docs.is_outside(target))


def test_every_page_is_copied_with_what_it_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "SOURCE", tmp_path)
    docs.copy_pages([*docs.DOCS.rglob("*.md"), *(ROOT / name for name in docs.OTHER_PAGES)])
    assert (tmp_path / "results/lab/quick/report/reward_specific/curves.png").is_file()
    for page in tmp_path.rglob("*.md"):
        for target in docs.targets(page.read_text()):
            path = (page.parent / target.partition("#")[0]).resolve()
            is_written = path.is_relative_to((tmp_path / "reference").resolve())
            assert docs.is_outside(target) or is_written or path.is_file(), (page, target)


def test_a_link_to_nothing_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCS", "ROOT"):
        monkeypatch.setattr(docs, name, tmp_path)
    (tmp_path / "page.md").write_text("[there](absent.md)\n\n```\n[code](is_no_link.md)\n```\n")
    with pytest.raises(SystemExit, match=r"absent\.md, which is no file"):
        docs.linked_files((tmp_path / "page.md").read_text(), tmp_path / "page.md")


def test_the_navigation_names_every_page_once() -> None:
    named = re.findall(r'"([^"]+\.md)"', (ROOT / "zensical.toml").read_text())
    assert len(set(named)) == len(named)
    pages = {str(page.relative_to(docs.DOCS)) for page in docs.DOCS.rglob("*.md")}
    folders = {path.name for path in OWN.iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(docs.GROUPS)
    groups = {f"reference/yaml/{group}.md" for group in docs.GROUPS}
    assert pages | groups | {"reference/commands.md", "reference/settings.md"} <= set(named)


def test_the_reference_knows_every_command_and_setting() -> None:
    text = docs.commands()["commands.md"]
    assert re.findall(r"^## (.*)$", text, re.M) == list(COMMANDS)
    assert "| `port` | `5000` |" in text
    settings = docs.settings()
    assert "| `optim.learning_rate` |" in settings["settings.md"]
    assert "| `method.aux_weight` | `1.0` | Weight lambda" in settings["yaml/method.md"]
    assert "| `launcher.retries` |" in settings["yaml/launcher.md"]
