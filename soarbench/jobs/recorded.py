"""What earlier commands ran of a grid, beside the part of it that a command line selects."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from soarbench.common.errors import ConfigError
from soarbench.config.keys import AXES, split
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import cell_record, describe
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.graph import cell_jobs
from soarbench.store.cells import FINISHED

_SEED = re.compile(r"-seed(\d+)-[0-9a-f]+")


def with_recorded(grid: Grid) -> Grid:
    """A grid with the cells that earlier commands finished with the same settings.

    Whatever methods, tasks and seeds these selected: a report of it has all that one before had.
    Cells of other budgets or values are others', and stay out.
    """
    # The same settings decide, and not what is stored: nothing that is stored says which cells of
    # two budgets belong together.
    words = [word for word in grid.arguments if split(word).key not in (*AXES, "seeds")]
    seeds = sorted({*grid.settings.seeds, *_recorded_seeds(grid)})
    try:
        whole = expand([*words, f"seeds=[{','.join(map(str, seeds))}]"])
    except ConfigError:
        # What some other method or task refuses, it was not run with.
        return grid
    asked = {addresses.cell_id(cell) for cell in grid.cells}
    cells = tuple(
        cell
        for cell in whole.cells
        if addresses.cell_id(cell) in asked or _is_whole(cell, whole.cells, grid)
    )
    return dataclasses.replace(grid, cells=cells) if len(cells) > len(asked) else grid


def _recorded_seeds(grid: Grid) -> set[int]:
    """Training seeds of all cells of the grid's folder."""
    names = (path.parent.name for path in grid.folder.glob("*/cell.json"))
    return {int(seed) for name in names for seed in _SEED.findall(name)}


def _is_whole(cell: CellConfig, cells: Sequence[CellConfig], grid: Grid) -> bool:
    """Whether the grid finished a cell, evaluated as it would be now, and still has all of it."""
    status = cell_record(grid.store, describe(cell, cells)).status()
    if status is None or status.state != FINISHED:
        return False
    jobs = cell_jobs(cell, cells)
    return all(job.is_done(grid.store) for job in jobs if job.kind != "log")
