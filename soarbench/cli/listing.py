"""``ls``: what there is to choose from, one line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluators.base import JudgeConfig
from soarbench.common.docstrings import summary
from soarbench.common.errors import ConfigError
from soarbench.common.plugins import ConfFolder
from soarbench.common.progress import print_line
from soarbench.common.strict import TARGET, did_you_mean, imported
from soarbench.config.folders import Folders, options, search_path, sources
from soarbench.config.grammar import in_one_line
from soarbench.config.keys import Options

#: No group of YAML: what ``plan`` knows of.
_GPU = "gpu"
#: Groups of YAML by what they are called here.
LISTED = {
    "grids": "grid", "methods": "method", "tasks": "task", "budgets": "budget", "models": "model",
    "judges": "judge", "suites": "suite", "data": "data", "launchers": "launcher",
    "tracking": "tracking", "gpus": _GPU,
}  # fmt: skip
#: How those are chosen that no word of their own chooses everywhere.
_CHOSEN_BY = {
    "judge": "suites.NAME.judges=NAME", "suite": "suite=NAME of score and evaluate",
    _GPU: "gpu=NAME of plan and bench grid",
}  # fmt: skip
_SENTENCE = re.compile(r"(.+?)(?:[.;:(](?:\s|$)|$)")


@dataclass(frozen=True, kw_only=True)
class ListOptions(Options):
    """``ls`` takes what to list, and where more YAML is."""

    settings: ClassVar[tuple[str, ...] | None] = ("conf_dir",)


def ls(
    names: Sequence[str], _options: ListOptions, words: Sequence[str], *, console: Console
) -> int:
    """Print the choices of some groups, or of all; ``ConfigError`` where there is no such group."""
    folders = search_path(words)
    for index, name in enumerate(names or LISTED):
        heading = name if name in LISTED else f"{name}s"
        if heading not in LISTED:
            raise ConfigError(f"ls {name}: {did_you_mean(name, LISTED)}")
        if index:
            console.print()
        group = LISTED[heading]
        chosen_by = _CHOSEN_BY.get(group, f"{group}=NAME")
        rows = _gpu_lines() if group == _GPU else lines_of(group, folders)
        print_rows(console, f"{heading} ({chosen_by})", rows)
    return 0


def _gpu_lines() -> dict[str, str]:
    """What a plan knows of each GPU."""
    # Loads the composer of configurations, which no other list needs.
    from soarbench.planning.demand import gpus

    return {
        name: f"{gpu.memory_gb:g} GB, {gpu.bf16_tflops:g} TFLOP/s in bf16"
        for name, gpu in gpus().items()
    }


def print_rows(console: Console, title: str, rows: Mapping[str, str]) -> None:
    """Names and what they are: wrapped on a terminal, a line each elsewhere."""
    print_line(console, title, "bold")
    if not console.is_terminal:
        width = max(map(len, rows), default=0)
        for name, text in rows.items():
            print_line(console, f"  {name:<{width}}  {text}")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in rows.items():
        table.add_row(f"  {escape(name)}", escape(text))
    console.print(table)


def lines_of(group: str, folders: Folders) -> dict[str, str]:
    """Every choice of a group, and what it is."""
    lines = {}
    for name, source in sources(group, folders).items():
        text = description(group, name, folders)
        lines[name] = f"{text} (of {source})" if source else text
    return lines


def description(group: str, name: str, folders: Folders) -> str:
    """What a choice is: as its YAML says, its judge, its first comment, or its class."""
    path = _path(group, name, folders)
    text = path.read_text()
    with in_one_line(f"{path}: "):
        values = yaml.safe_load(text) or {}
    if "description" in values:
        return str(values["description"])
    target = _target(values, group)
    kind = imported(target, name) if target else None
    if isinstance(kind, type) and issubclass(kind, JudgeConfig):
        return kind.summary
    # Above a method's values stands where they were published.
    comment = "" if target and group == "method" else _comment(text.splitlines())
    if comment or not isinstance(kind, type):
        return comment or _inherited(group, values, folders)
    return summary(kind).rstrip(".")


def _path(group: str, name: str, folders: Iterable[ConfFolder]) -> Path:
    paths = (folder.path / group / f"{name}.yaml" for folder in folders)
    return next(path for path in paths if path.is_file())


def _target(values: Mapping[str, object], group: str) -> str | None:
    below = values.get(group)
    target = values.get(TARGET) or (below.get(TARGET) if isinstance(below, Mapping) else None)
    return str(target) if target else None


def _comment(lines: Iterable[str]) -> str:
    """The first sentence of the comment at the top."""
    top: list[str] = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            top.append(line.lstrip("# "))
    found = _SENTENCE.match(" ".join(top))
    return found[1] if found else ""


def _inherited(group: str, values: Mapping[str, object], folders: Folders) -> str:
    """What the choice that it begins with is."""
    defaults = values.get("defaults", ())
    assert isinstance(defaults, Sequence)
    known = options(group, folders)
    parents = [one for one in defaults if isinstance(one, str) and one in known]
    return f"as {parents[0]}, with other values" if parents else "-"
