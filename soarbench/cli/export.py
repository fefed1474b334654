"""``export``: a grid's finished cells without images or weights, to publish."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from soarbench.common.errors import DamagedFile, StoreError, UserError
from soarbench.common.files import make_writable, set_aside
from soarbench.common.progress import print_line
from soarbench.config.keys import Options
from soarbench.grid.checkpoint_rule import LAST
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.protocols import refuse_unlike
from soarbench.report.numbers.samples import read_samples, shown_cells, strip_of
from soarbench.report.source import GridCells, grid_cells
from soarbench.store.cells import FINISHED, Cell, finished_and_holes
from soarbench.store.exports import Export, Manifest, Strip, write_export

#: Settings of the exporter's machine, which no address depends on; a tracking.uri may hold a
#: password, and exports are published.
_OWN_KEYS = ("output_dir", "results_dir", "tracking", "device")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """What ``export`` takes beside the settings of a run.

    Attributes:
        output: Where the grid becomes a folder.
    """

    example: ClassVar[str] = "export grid=reward_specific output=results/lab/mine"
    renamed: ClassVar[Mapping[str, str]] = {"path": "output"}
    output: Path


def export(options: ExportOptions, settings: Sequence[str], *, console: Console) -> int:
    """Write the compact copy and say what it holds. -> 1 when a cell is not finished."""
    source = grid_cells(settings)
    finished, _ = finished_and_holes(source.cells, str(source.folder))
    target = options.output / source.grid
    # Every later command would read the copy in its place, and refuse what a run is asked.
    if (options.output / "grids").is_dir() or target.resolve() == source.folder.resolve():
        raise UserError(
            f"output={options.output} holds the runs themselves; choose a folder of its own"
        )
    make_writable(target, "output")
    try:
        num_older = _write(source, finished, target)
    except DamagedFile as error:
        # What is read may be an export, too, and only what is written can be made again.
        if not str(error).startswith(f"{target}/"):
            raise
        aside = set_aside(target, target.with_name(f"{target.name}.damaged"))
        fault = str(error).rpartition("; ")[0]
        print_line(console, f"{fault}; the export that was there is set aside as {aside}", "yellow")
        make_writable(target, "output")
        num_older = _write(source, finished, target)
    # With its name: the folder may hold other grids' exports, too.
    words = shlex.join([f"grid={source.grid}", f"output_dir={target.parent}"])
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print_line(
        console,
        f"{target}: {len(finished)} of {len(source.cells)} cells finished, {num_older} were there "
        f"before, {size / 1e6:.1f} MB in all\n"
        f"report it with: python -m soarbench report {words}",
    )
    return 0 if len(finished) == len(source.cells) else 1


def _write(source: GridCells, finished: Sequence[Cell], target: Path) -> int:
    """Write the export. -> How many of its cells were there before, from another folder."""
    # A study may come from several folders: what was exported into this one before stays.
    there = Export(target)
    stored = {cell.cell_id: cell for cell in there.cells()} if there.exists else {}
    # A cell that is not finished here may be there, where it was exported on another machine.
    unfinished = {cell.cell_id for cell in source.cells if cell.state != FINISHED}
    kept = {key for key in unfinished & stored.keys() if stored[key].state == FINISHED}
    new = []
    for cell in source.cells:
        if cell.cell_id not in kept:
            older = stored.pop(cell.cell_id, None)
            _refuse_fewer(target, older, cell)
            new.append(_with_paths(cell, older))
    _refuse_older(target, stored.values(), new)
    manifest = Manifest(
        grid=source.grid, baseline=source.baseline, checkpoint_rule=source.checkpoint_rule,
        show_published=source.show_published,
    )  # fmt: skip
    if stored:
        _refuse_other_words(target, there.manifest(), manifest)
    cells = sorted([*stored.values(), *new], key=lambda cell: cell.cell_id)
    try:
        refuse_unlike([cell for cell in cells if cell.state == FINISHED])
    except StoreError as error:
        # No command can score again what another machine exported.
        if not stored:
            raise
        raise UserError(f"{target} has other results: {error}; or choose another output=") from None
    write_export(
        target,
        manifest,
        cells,
        {strip.key: strip for strip in [*there.strips(), *_strips(finished)]}.values(),
        clean_commands(cells),
    )
    return len(stored)


def _refuse_older(target: Path, stored: Iterable[Cell], new: Iterable[Cell]) -> None:
    """``UserError`` where a cell was exported before with other settings: no report takes both."""
    places = {(cell.method, cell.task, cell.seed) for cell in new}
    for cell in stored:
        if (cell.method, cell.task, cell.seed) in places:
            raise UserError(
                f"{target} has {cell.label} of other settings ({cell.cell_id}); delete it, "
                "or choose another output="
            )


def _refuse_fewer(target: Path, older: Cell | None, cell: Cell) -> None:
    """``UserError`` where a cell was exported with more prompts, images, judges or steps."""
    if older is None or older.state != FINISHED or cell.state != FINISHED:
        return
    suites: Mapping[str, Mapping[str, Any]] = cell.description["suites"]
    for name, before in older.description["suites"].items():
        now = suites.get(name, {})
        for key in ("max_prompts", "images_per_prompt"):
            # Null takes all prompts.
            size, least = (
                math.inf if facts.get(key) is None else facts[key] for facts in (now, before)
            )
            if now and size < least:
                raise _fewer(target, cell, f"{key}={before[key]} of {name}", str(now[key]))
        lost = before["scores"].keys() - now.get("scores", {}).keys()
        if lost:
            raise _fewer(target, cell, f"{', '.join(sorted(lost))} of {name}", "none")
    steps = sorted(set(older.steps) - set(cell.steps))
    if steps:
        raise _fewer(target, cell, f"step {', '.join(map(str, steps))}", "none")


def _fewer(target: Path, cell: Cell, before: str, now: str) -> UserError:
    return UserError(
        f"{target} has {cell.cell_id} with {before}, and this has {now}, which would take its "
        "place; choose another output="
    )


def _refuse_other_words(target: Path, before: Manifest, now: Manifest) -> None:
    """``UserError`` where the cells that were there are reported otherwise."""
    # An older export does not say its rule.
    rules = [manifest.checkpoint_rule or LAST for manifest in (before, now)]
    for key, values in (
        ("grid.baseline", [before.baseline, now.baseline]),
        ("grid.checkpoint_rule", rules),
    ):
        if values[0] != values[1]:
            raise UserError(
                f"{target} has {key}={values[0]}, and this has {values[1]}; say {key}={values[0]}, "
                "or choose another output="
            )


def _with_paths(cell: Cell, older: Cell | None) -> Cell:
    """A cell that names what was exported of it before on other data, too."""
    if older is None:
        return cell
    # The base is followed on the data of every task, and its tasks may be exported one by one.
    before, now = older.description["paths"], cell.description["paths"]
    assert isinstance(before, Mapping)
    assert isinstance(now, Mapping)
    return replace(cell, description={**cell.description, "paths": {**before, **now}})


def clean_commands(cells: Sequence[Cell]) -> Mapping[str, str]:
    """Commands without the folders of this machine."""
    commands = {launch.command for cell in cells for launch in cell.launches}

    def is_own(word: str) -> bool:
        return word.partition("=")[0].partition(".")[0] in _OWN_KEYS

    return {
        command: shlex.join(word for word in shlex.split(command) if not is_own(word))
        for command in commands
    }


def _strips(cells: Sequence[Cell]) -> Iterator[Strip]:
    """Small images of every task, of the lowest seed alone, a strip a step."""
    # All images would be gigabytes in git; a strip shows what a curve cannot.
    panels, _ = build_panels(cells)
    deciding = {cell.task: cell.final_metric for cell in cells if cell.final_metric}
    for (task, metric), panel in panels.items():
        if deciding.get(task) != metric:
            continue
        samples = read_samples(cells, panel)
        for cell in shown_cells(cells, task):
            for step in cell.steps:
                image = strip_of(samples, cell.method, step)
                if image is not None:
                    yield Strip.of(cell.cell_id, task, step, image, samples.prompts)
