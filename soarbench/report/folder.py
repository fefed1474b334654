"""Where a grid's report goes, and what it says where that is not the usual place."""

from __future__ import annotations

import csv
from pathlib import Path

from soarbench.common.files import parts_digest
from soarbench.report.source import GridCells
from soarbench.store.cells import FINISHED

#: Task, method and training seed.
_Row = tuple[str, str, str]
_COLUMNS = {"task", "method", "seed"}


def report_folder(source: GridCells) -> Path:
    """``results_dir/GRID``; beside it where a report lies there that shows more of the grid.

    More is any finished method, task and seed that is none of the source's: a part of a grid never
    takes the place of all of it, nor one seed that of three.
    """
    usual = source.results_dir / source.grid
    finished = (cell for cell in source.cells if cell.state == FINISHED)
    cells = {(cell.task, cell.method, str(cell.seed)) for cell in finished}
    if _shown(usual) <= cells:
        return usual
    # By its cells, so that the same command has one place.
    ids = sorted(cell.cell_id for cell in source.cells)
    return usual.with_name(f"{usual.name}-{parts_digest(*ids)[:8]}")


def place_note(folder: Path, grid: str) -> str:
    """Why a report is not in the usual place; empty where it is."""
    if folder.name == grid:
        return ""
    usual = folder.with_name(grid)
    return f"{usual} shows cells that are not among these and stays; this report is in {folder}"


def _shown(folder: Path) -> set[_Row]:
    """The finished cells of the report in a folder; nothing where there is none."""
    path = folder / "trace.csv"
    if not path.is_file():
        return set()
    # A damaged file is one of a report that is written again.
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {(row["task"], row["method"], row["seed"]) for row in rows if row.keys() >= _COLUMNS}
