"""``python -m soarbench doctor``: which judges can run here, and how to get the others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.table import Column, Table

from evaluators.base import SERVER, JudgeConfig
from evaluators.weights import PublishedFile, PublishedWeights
from soarbench.cli.published import PublishedRow, data_rows, prompt_rows
from soarbench.common.progress import print_line
from soarbench.config.folders import search_path
from soarbench.config.keys import Options
from soarbench.config.registries import every_judge, require_judges

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Finding:
    """What a judge lacks here, and the command that gets it; both are empty when it is ready."""

    missing: str
    command: str


def cached(weights: PublishedWeights | PublishedFile) -> Path | None:
    """What is published, in a cache of this machine, if it is whole there."""
    if isinstance(weights, PublishedFile):
        return weights.path if weights.path.is_file() else None
    return cached_snapshot(weights)


def cached_snapshot(weights: PublishedWeights) -> Path | None:
    """The hub cache's folder with these weights, if it has them whole."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{weights.repo.replace('/', '--')}"
    reference = folder / "refs" / "main"
    if not reference.is_file():
        return None
    snapshot = folder / "snapshots" / reference.read_text().strip()
    # The hub's client links a file into a snapshot only when all of it is there.
    present = {path.name for pattern in weights.files for path in snapshot.glob(pattern)}
    has_weights = any(name.endswith(_WEIGHT_SUFFIXES) for name in weights.files)
    suffixes = _WEIGHT_SUFFIXES if has_weights else ("",)
    has_any = any(name.endswith(suffixes) for name in present)
    return snapshot if has_any and _parts(snapshot, weights) <= present else None


def _parts(snapshot: Path, weights: PublishedWeights) -> set[str]:
    """Files that the weights of a large model are divided among, where they are asked for."""
    # Another judge may take a whole model of which this one takes the tokenizer.
    indices = {path for pattern in weights.files for path in snapshot.glob(pattern)}
    return {
        part
        for path in indices
        if path.name.endswith(".safetensors.index.json")
        for part in json.loads(path.read_text())["weight_map"].values()
    }


def examine(name: str, judge: JudgeConfig) -> Finding:
    """What a judge lacks here."""
    # By name, not by import: torch and its like take seconds, and this is to answer at once.
    packages = " ".join(package for package in judge.packages if not _is_installed(package))
    if packages:
        return Finding(f"packages {packages}", f"pip install {packages}")
    if named := _not_there(judge):
        return Finding(f"{named}: no such path", "give a path that is there, or a hub id")
    absent = [weights.title for weights in _needed(judge) if cached(weights) is None]
    if absent:
        return Finding(f"weights {', '.join(absent)}", f"python -m soarbench fetch {name}")
    return Finding(*judge.missing())


def _not_there(judge: JudgeConfig) -> str:
    """The first setting that names weights by a path where nothing is; empty without one."""
    for name in judge.weight_files():
        value = str(getattr(judge, name))
        is_path = value.startswith(("/", "./", "../", "~"))
        if is_path and not Path(value).expanduser().exists():
            return f"{name}={value}"
    return ""


def _needed(judge: JudgeConfig) -> list[PublishedWeights | PublishedFile]:
    """What is published and not replaced by weights of the user's own, or by a server."""
    if judge.runs_on == SERVER:
        return []
    usual = {entry.name: entry.default for entry in dataclasses.fields(judge)}
    changed = {
        str(usual[name]).partition("@")[0]
        for name in judge.weight_files()
        if getattr(judge, name) != usual[name]
    }
    return [
        published
        for published in judge.published
        if (published.repo if isinstance(published, PublishedWeights) else published.name)
        not in changed
    ]


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(Options):
    """What ``doctor`` and ``fetch`` take beside names of judges: where their YAML is."""

    settings: ClassVar[tuple[str, ...] | None] = ("conf_dir",)


def doctor(
    names: Sequence[str], _options: JudgeOptions, words: Sequence[str], *, console: Console
) -> int:
    """Print the state of some judges, or of all that can be had; ``ConfigError`` as for judges."""
    folders = search_path(words)
    judges = every_judge(folders)
    require_judges(names, judges)
    table = Table("judge", Column("state", overflow="fold"), "disk GB", "memory GB", "measures")
    findings = {name: examine(name, judges[name]) for name in names or judges}
    for name, finding in findings.items():
        judge = judges[name]
        state = f"missing {finding.missing}" if finding.missing else "ready"
        disk = sum(weights.disk_gb for weights in judge.published)
        memory = sum(weights.memory_gb for weights in judge.published)
        sizes = [f"{size:.2f}" if size else "-" for size in (disk, memory)]
        table.add_row(name, state, *sizes, judge.summary)
    console.print(table)
    # Below the table, whose cells are too narrow for a command that can be copied.
    for name, finding in findings.items():
        if finding.missing:
            print_line(console, f"to get {name}: {finding.command}")
    if not names:
        _show_published([*prompt_rows(folders), *data_rows(folders)], console)
    return 0


def _show_published(rows: Sequence[PublishedRow], console: Console) -> None:
    """Prompts and sets of images as a table, and the commands that get what is missing."""
    table = Table("prompts and data", "state", Column("from", overflow="fold"), "what")
    for row in rows:
        table.add_row(row.name, row.state, row.source, row.summary)
    console.print(table)
    for command in dict.fromkeys(row.command for row in rows if row.command):
        names = ", ".join(row.name for row in rows if row.command == command)
        print_line(console, f"to get {names}: {command}")
