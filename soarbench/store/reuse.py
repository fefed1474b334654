"""Work that another grid of the same output directory has already done.

Grids share trainings: SFT and SOAR in ``soar_then_grpo`` are those of ``reward_specific``. A cell
whose configuration differs in the grid's name alone has the same numbers, so its files are linked
instead of being made again; only its MLflow run is new.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from soarbench.common.files import read_json, write_atomically
from soarbench.config.settings import CellConfig
from soarbench.store.cell_folder import CellFolder, Status

#: A cell's digest ends its folder's name.
_DIGEST_LENGTH = 12


def adopt(cell: CellConfig, folder: CellFolder, output_dir: Path) -> str | None:
    """Link the files of a finished cell of another grid, if there is one that did the same work.

    Args:
        cell: One that was not begun.
        folder: Where it is to be.
        output_dir: Whose grids are searched.

    Returns:
        The other grid's name; None if the work is still to be done.
    """
    if folder.root.exists():
        return None
    found = done_elsewhere(cell, output_dir)
    if found is None:
        return None
    # Beside the cells' folder: reports read every folder in there.
    unfinished = folder.root.parents[1] / "adopting"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    # Files of a finished cell are replaced, never changed, so a link is as good as a copy.
    shutil.copytree(found.root, unfinished, copy_function=os.link)
    _rename(CellFolder(unfinished), cell)
    folder.root.parent.mkdir(exist_ok=True)
    unfinished.rename(folder.root)
    return found.grid


def _rename(adopted: CellFolder, cell: CellConfig) -> None:
    """Make linked files those of another cell, whose log alone is still to be done."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    status = adopted.status()
    assert status is not None
    adopted.config_path.unlink()
    adopted.create(cell)
    adopted.write_status(Status(budget=status.budget))
    scores = pq.read_table(adopted.scores_table)
    names = pa.array([cell.cell_id] * len(scores), pa.string())
    renamed = scores.set_column(scores.schema.get_field_index("cell_id"), "cell_id", names)
    write_atomically(adopted.scores_table, lambda partial: pq.write_table(renamed, partial))


def done_elsewhere(cell: CellConfig, output_dir: Path) -> CellFolder | None:
    """A finished cell of another grid that differs in the grid's name alone."""
    words = cell.cell_id[:-_DIGEST_LENGTH]
    wanted = _without_grid(cell.content())
    for root in sorted(output_dir.glob(f"*/cells/{words}*")):
        other = CellFolder(root)
        if other.grid != cell.grid and other.config_path.is_file() and other.is_finished():
            config = read_json(other.config_path)["config"]
            assert isinstance(config, Mapping)
            if _without_grid(config) == wanted:
                return other
    return None


def _without_grid(content: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in content.items() if key != "grid"}
