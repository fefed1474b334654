"""``python -m soarbench export``: a grid's finished cells without images or weights, to publish."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from soarbench.common.files import make_writable, read_json, write_atomically, write_json
from soarbench.common.provenance import STORE_VERSION, UNKNOWN
from soarbench.config.keys import Options
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.protocols import (
    PROTOCOLS_FILE,
    cell_protocols,
    packed_protocols,
    refuse_unlike,
)
from soarbench.report.numbers.samples import (
    Samples,
    prompts_path,
    read_samples,
    shown_cells,
    strip_of,
    strip_path,
)
from soarbench.store.cells import Cell, PlannedCell, read_cells
from soarbench.store.grids import (
    MANIFEST,
    ListedCell,
    StoredGrid,
    listed_cells,
    own_settings,
    read_manifest,
    stored_grid,
)

#: Of every finished cell, as far as it has them.
_FILES = (
    "config.json", "status.json", "scores.parquet", "training.parquet", PROTOCOLS_FILE,
)  # fmt: skip
_QUALITY = 85
#: Settings of the exporter's machine, which no address depends on.
_OWN_KEYS = ("output_dir", "results_dir", "tracking", "device")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """What ``export`` takes beside the settings of a run.

    Attributes:
        output: Folder of the copy; the grid becomes a folder in it.
    """

    example: ClassVar[str] = "export grid=reward_specific output=results/lab/mine"
    renamed: ClassVar[Mapping[str, str]] = {"path": "output"}
    output: Path


def export(options: ExportOptions, settings: Sequence[str], *, console: Console) -> int:
    """Write the compact copy and say what it holds.

    Args:
        options: Where to.
        settings: Of the run, as for ``report``.
        console: Where the summary goes.

    Returns:
        0, or 1 when a cell of the grid is not finished.

    Raises:
        UserError: The folder cannot be written to, or nothing is finished.
    """
    stored = stored_grid(settings)
    target = options.output / stored.grid
    cells, _ = read_cells(stored.folder, stored.cells)
    refuse_unlike(cells)
    make_writable(target, "output")
    kept = _copy_cells(stored, cells, target)
    _write_launches(cells, target, settings)
    _write_samples(cells, target)
    _write_manifest(stored, target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    console.print(
        f"{target}: {len(cells)} of {len(stored.cells)} cells finished, {kept} were there before, "
        f"{size / 1e6:.1f} MB in all",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    console.print(
        f"report it with: python -m soarbench report output_dir={shlex.quote(str(target.parent))}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    return 0 if len(cells) == len(stored.cells) else 1


def _remade_by(settings: Sequence[str]) -> str:
    """The command that makes these very cells: an address is the digest of the settings."""
    return _without_own_keys(["python", "-m", "soarbench", "run", *settings])


def _without_own_keys(words: Sequence[str]) -> str:
    return shlex.join(word for word in words if word.partition("=")[0] not in _OWN_KEYS)


def _copy_cells(stored: StoredGrid, cells: Sequence[Cell], target: Path) -> int:
    """Copy what a report reads; cells that are there already stay. -> How many were there."""
    kept = 0
    finished = {cell.cell_id: cell for cell in cells}
    for planned in stored.cells:
        source, folder = stored.folder / "cells" / planned.cell_id, target / "cells"
        if planned.cell_id in finished:
            kept += not _copy_cell(finished[planned.cell_id], folder / planned.cell_id)
        elif (source / "config.json").is_file():
            for name in ("config.json", "status.json"):
                _copy(source / name, folder / planned.cell_id / name)
    return kept


def _copy_cell(cell: Cell, folder: Path) -> bool:
    """Copy a finished cell; whether there was anything to do."""
    # The base may have been followed on more data since.
    for path in sorted((cell.folder / "diagnostics").glob("*.parquet")):
        if not (folder / "diagnostics" / path.name).is_file():
            _copy(path, folder / "diagnostics" / path.name)
    if (folder / "scores.parquet").is_file():
        return False
    for name in _FILES:
        _copy(cell.folder / name, folder / name)
    _copy_launches(cell.folder / "launches.json", folder / "launches.json")
    if not (folder / PROTOCOLS_FILE).is_file():
        write_json(folder / PROTOCOLS_FILE, packed_protocols(cell_protocols(cell.folder)))
    return True


def _write_launches(cells: Sequence[Cell], target: Path, settings: Sequence[str]) -> None:
    """For cells that did not record their command and commit: one that makes them, and MLflow's."""
    places = {c.cell_id: target / "cells" / c.cell_id / "launches.json" for c in cells}
    lacking = [cell for cell in cells if not places[cell.cell_id].is_file()]
    if not lacking:
        return
    from soarbench.tracking.tracker import logged_commits

    found = own_settings(settings)
    run_ids = [cell.mlflow_run_id for cell in lacking if cell.mlflow_run_id]
    commits = logged_commits(found.tracking, Path(found.output_dir).expanduser(), run_ids)
    for cell in lacking:
        commit = commits.get(cell.mlflow_run_id or "", UNKNOWN)
        launch = {"command": _remade_by(settings), "git_commit": commit}
        write_json(places[cell.cell_id], {"launches": [launch]})


def _copy_launches(source: Path, target: Path) -> None:
    """Commands without the folders of this machine."""
    if not source.is_file():
        return
    launches = read_json(source)["launches"]
    assert isinstance(launches, list)
    for launch in launches:
        if "command" in launch:  # reports take what a launch did not record as unknown
            launch["command"] = _without_own_keys(shlex.split(launch["command"]))
    write_json(target, {"launches": launches})


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        write_atomically(target, lambda partial_path: shutil.copyfile(source, partial_path))


def _write_samples(cells: Sequence[Cell], target: Path) -> None:
    """Small images of every task, of the lowest seed alone."""
    panels, _ = build_panels(cells)
    deciding = {cell.task: cell.final_metric for cell in cells if cell.final_metric}
    for (task, metric), panel in panels.items():
        if deciding.get(task) == metric:
            samples = read_samples(cells, panel)
            for cell in shown_cells(cells, task):
                _write_strips(samples, cell, target / "cells" / cell.cell_id)


def _write_strips(samples: Samples, cell: Cell, folder: Path) -> None:
    """A cell's samples of one task, an image a step."""
    for step in cell.steps:
        strip = strip_of(samples, cell.method, step)
        if strip is not None:
            save = partial(strip.save, format="JPEG", quality=_QUALITY)
            write_atomically(strip_path(folder, samples.task, step), save)
            write_json(prompts_path(folder, samples.task), dict(samples.prompts))


def _write_manifest(stored: StoredGrid, target: Path) -> None:
    """List the cells, those of earlier exports into the same folder included."""
    listed: dict[str, PlannedCell] = {}
    if (target / MANIFEST).is_file():
        listed |= {cell.cell_id: cell for cell in listed_cells(read_manifest(target))}
    listed |= {cell.cell_id: cell for cell in stored.cells}
    write_json(
        target / MANIFEST,
        {
            "version": STORE_VERSION,
            "grid": stored.grid,
            "baseline": stored.baseline,
            "cells": [_listed(listed[cell_id]) for cell_id in sorted(listed)],
        },
    )


def _listed(cell: PlannedCell | ListedCell) -> Mapping[str, object]:
    return {
        "cell_id": cell.cell_id,
        "task": cell.task_name,
        "method": cell.method_name,
        "seed": cell.seed,
    }
