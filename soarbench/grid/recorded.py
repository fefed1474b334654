"""What earlier commands ran of a grid, beside the part of it that a command line selects."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from soarbench.common.errors import ConfigError
from soarbench.common.files import read_record
from soarbench.config.compose import AXES
from soarbench.config.keys import split
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import describe
from soarbench.grid.expand import Grid, expand

_SEED = re.compile(r"-seed(\d+)-[0-9a-f]+")
#: Of a description: what a report reads. Titles may be worded anew.
_READ = ("training", "steps", "suites", "metrics", "final_metric")


def with_recorded(grid: Grid) -> Grid:
    """A grid with the cells that earlier commands ran with the same settings.

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
        if addresses.cell_id(cell) in asked or _is_recorded(cell, whole.cells, grid)
    )
    return dataclasses.replace(grid, cells=cells) if len(cells) > len(asked) else grid


def _recorded_seeds(grid: Grid) -> set[int]:
    """Training seeds of all cells of the grid's folder."""
    names = (path.parent.name for path in grid.folder.glob("*/cell.json"))
    return {int(seed) for name in names for seed in _SEED.findall(name)}


def _is_recorded(cell: CellConfig, cells: Sequence[CellConfig], grid: Grid) -> bool:
    """Whether the grid's folder has a cell, evaluated as it would be now."""
    path = grid.folder / addresses.cell_id(cell) / "cell.json"
    if not path.parent.is_dir():
        return False
    stored, described = read_record(path), describe(cell, cells)
    return stored is not None and all(stored.get(key) == described[key] for key in _READ)
