"""Where the diagnostics of a cell lie; imports no framework, so that reports can read them."""

from __future__ import annotations

from pathlib import Path


def images_path(cell_root: Path) -> Path:
    """Statistics of every evaluation image.

    Columns: step, suite, prompt_id, image_index, those of ``image_statistics.STATISTICS``, and
    diversity (of the image's prompt; null where it has one image).
    """
    return cell_root / "diagnostics" / "images.parquet"


def deviations_path(cell_root: Path, task: str) -> Path:
    """Deviation from the training path at the last step, on a task's data.

    Columns: step, row, start (level the path was left at), index, sigma, deviation.
    """
    return cell_root / "diagnostics" / f"deviations.{task}.parquet"


def norms_path(cell_root: Path, task: str) -> Path:
    """RMS of the velocity at every evaluated step, on a task's data. Columns: step, row, norm."""
    return cell_root / "diagnostics" / f"norms.{task}.parquet"
