"""Where the diagnostics of a cell lie; imports no framework, so that reports can read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from soarbench.common.files import short_digest

if TYPE_CHECKING:
    from soarbench.config.settings import CellConfig


def images_path(cell_root: Path) -> Path:
    """Statistics of every evaluation image.

    Columns: step, suite, prompt_id, image_index, those of ``image_statistics.STATISTICS``, and
    diversity (of the image's prompt; null where it has one image).
    """
    return cell_root / "diagnostics" / "images.parquet"


def data_key(task: str, data: object) -> str:
    """Name of the data whose images were followed: the base is followed on any data of a task.

    Args:
        task: Name.
        data: Configuration of a trained cell's data, as plain JSON values.
    """
    text = json.dumps(data, sort_keys=True)
    return f"{task}-{short_digest(text.encode())}"


def source_key(cell: CellConfig) -> str:
    """The ``data_key`` of a trained cell."""
    return data_key(cell.task_name, cell.content()["data"])


def deviations_path(cell_root: Path, key: str) -> Path:
    """Deviation from the training path at the last step, on the data of ``data_key``.

    Columns: step, row, start (level the path was left at), index, sigma, deviation.
    """
    return cell_root / "diagnostics" / f"deviations.{key}.parquet"


def norms_path(cell_root: Path, key: str) -> Path:
    """RMS of the velocity at every evaluated step, on the data of ``data_key``.

    Columns: step, row, norm.
    """
    return cell_root / "diagnostics" / f"norms.{key}.parquet"
