"""``doctor grid=NAME``: what a grid lacks on this machine, and the commands that get it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from evaluators.base import JudgeConfig
from evaluators.weights import PublishedWeights
from soarbench.cli.base_weights import HUB_PAGE, is_of_hub, to_get_weights
from soarbench.cli.disk import disk_need, space_line
from soarbench.cli.doctor import JudgeOptions, examine
from soarbench.cli.doctor import doctor as judges_doctor
from soarbench.cli.dry_run import MISSING_DATA, rates_line
from soarbench.cli.published import data_row
from soarbench.common.errors import UserError
from soarbench.common.progress import print_line
from soarbench.config.folders import CONF_DIR
from soarbench.config.keys import Options, split
from soarbench.config.suites import missing_prompts
from soarbench.data.forms import DatasetsDataConfig
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.graph import all_jobs
from soarbench.launchers.run_grid import estimates
from soarbench.models.base import ModelConfig
from soarbench.planning.planner import require_fit

READY = "ready"
_MIB = 2**20
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a grid needs: whether it is here, what is known of it, what gets it.

    ``remedies`` are lines below the table; without one the grid can run as far as this goes.
    """

    what: str
    state: str = READY
    about: str = ""
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """What ``doctor`` takes beside names of judges: the settings of a grid."""


def doctor(
    names: Sequence[str], _options: DoctorOptions, words: Sequence[str], *, console: Console
) -> int:
    """Print the state of judges, or of what a grid needs. -> 1 when a grid lacks something."""
    if all(split(word).key == CONF_DIR for word in words):
        return judges_doctor(names, JudgeOptions(), words, console=console)
    if names:
        raise UserError(f"doctor {names[0]}: name judges, or a grid with its settings")
    return grid_doctor(words, console)


def grid_doctor(words: Sequence[str], console: Console) -> int:
    """Print what a grid needs, and what of it is missing. -> 1 when something is."""
    with console.status("looking at judges, prompts, data, weights, disk and GPU"):
        grid = expand(words)
        checks = list(checks_of(grid))
    settings = grid.settings
    table = Table("needed", "state", Column("", overflow="fold"))
    table.title = f"grid {settings.grid.name}, model {settings.model.name}, {settings.budget.name}"
    for check in checks:
        table.add_row(check.what, check.state, check.about)
    console.print(table)
    # Below the table, whose cells are too narrow for what is to be copied.
    pages = [f"licence: {HUB_PAGE}{repo}" for repo in _repositories(grid)]
    remedies = list(dict.fromkeys(line for check in checks for line in check.remedies))
    command = f"python -m soarbench run {shlex.join(words)}"
    last = f"{len(remedies)} to do before {command}" if remedies else f"can run: {command}"
    for line in [*pages, *remedies, last]:
        print_line(console, line)
    return 1 if remedies else 0


def checks_of(grid: Grid) -> Iterator[Check]:
    """Everything that a grid needs, in the order in which a run would miss it."""
    yield from _judges(grid)
    absent = [missing_prompts(suite) for suite in grid.without_prompts]
    yield _check("prompts", absent, f"of {len(_suites(grid))} suites")
    yield _data(grid)
    yield _weights(grid.settings.model)
    yield _disk(grid)
    yield _gpu(grid)
    yield _time(grid)
    pages = len(_repositories(grid))
    yield Check(
        what="licences", state="yours to read" if pages else "-", about=f"{pages} of the hub"
    )


def _data(grid: Grid) -> Check:
    """The training set: which of the hub is here, and what gets it."""
    data = grid.settings.data
    if grid.without_data or not isinstance(data, DatasetsDataConfig) or not data.is_of_hub:
        return _check("data", [MISSING_DATA] if grid.without_data else [], "")
    row = data_row("data", vars(data))
    # What is streamed is never here.
    remedies = (f"to get {data.path}: {row.command}",) if row.command and not data.streaming else ()
    return Check(what="data", state=row.state, about=row.source, remedies=remedies)


def _check(what: str, absent: Sequence[str], about: str) -> Check:
    return Check(what=what, state="missing" if absent else READY, about=about, remedies=(*absent,))


def _suites(grid: Grid) -> set[str]:
    return {suite.name for cell in grid.cells for suite in cell.suites.values()}


def _asked(grid: Grid) -> dict[str, JudgeConfig]:
    return {name: judge for cell in grid.cells for name, judge in cell.judges.items()}


def _judges(grid: Grid) -> Iterator[Check]:
    for name, judge in sorted(_asked(grid).items()):
        finding = examine(name, judge)
        absent = [f"to get judge {name}: {finding.command}"] if finding.missing else []
        about = f"{finding.missing}: {judge.summary}" if finding.missing else judge.summary
        yield _check(f"judge {name}", absent, about)


def _weights(model: ModelConfig) -> Check:
    """The base model's, which are here or come from the hub."""
    what = f"weights of {model.name}"
    if not is_of_hub(model):
        return Check(what=what, about=model.path)
    remedy = to_get_weights(model)
    if remedy is None:
        return Check(what=what, about=f"{model.path}, in the hub's cache")
    return Check(
        what=what, state="missing", about=f"{model.path}, from the hub", remedies=(remedy,)
    )


def _disk(grid: Grid) -> Check:
    jobs = [job for job in all_jobs(grid) if not job.is_done(grid.store)]
    text = space_line(grid, jobs).removeprefix("disk: ")
    root = next(path for path in (grid.store.root, *grid.store.root.absolute().parents)
                if path.is_dir())  # fmt: skip
    lacking = disk_need(grid, jobs).total - shutil.disk_usage(root).free
    remedy = f"free {decimal(int(lacking))} on {root}, or choose another disk by output_dir=DIR"
    return _check("disk", [remedy] if lacking > 0 else [], text)


def _gpu(grid: Grid) -> Check:
    """Whether training fits on each GPU; a machine without any trains on its processor."""
    gpus = [] if grid.settings.device == "cpu" else found_gpus()
    if not gpus:
        return Check(what="GPU", state="none", about="everything runs on the processor")
    name, memory = min(gpus, key=lambda gpu: gpu[1])
    about = f"{len(gpus)} x {name}, {memory / 1e9:.0f} GB"
    try:
        require_fit(grid.cells, grid.settings.launcher, name=name, memory=memory)
    except UserError as error:
        return _check("GPU memory", [str(error)], about)
    return Check(what="GPU memory", about=about)


def found_gpus() -> list[tuple[str, int]]:
    """Name and bytes of every NVIDIA GPU here."""
    # Not by torch, whose import takes seconds.
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.rpartition(",") for line in done.stdout.splitlines() if done.returncode == 0]
    return [(name.strip(), int(size) * _MIB) for name, _, size in rows if size.strip().isdigit()]


def _time(grid: Grid) -> Check:
    jobs = [job for job in all_jobs(grid) if not job.is_done(grid.store)]
    seconds = sum(estimates(grid, jobs).values()) if jobs else 0.0
    left = f"{timedelta(seconds=round(seconds))} to go"
    about = rates_line(grid.settings.budget.rates, grid.settings.model)
    return Check(what="time", state=left, about=about)


def _repositories(grid: Grid) -> list[str]:
    """What of this grid has a page on the hub, where its licence stands."""
    model = grid.settings.model
    published = [one for judge in _asked(grid).values() for one in judge.published]
    # Files of elsewhere have no page on the hub.
    every = [one.repo for one in published if isinstance(one, PublishedWeights)]
    return list(dict.fromkeys([model.path] * is_of_hub(model) + every))
