"""Folders of exports, where commands about runs have nothing to do."""

from __future__ import annotations

from pathlib import Path

from soarbench.common.errors import UserError
from soarbench.store.exports import MANIFEST


def refuse_exports(output_dir: Path, grid: str | None = None) -> None:
    """``UserError`` where a folder holds exports in place of runs.

    Beside runs only an export of ``grid`` is refused: every report would read it, and never what is
    run.
    """
    has_runs = (output_dir / "grids").is_dir()
    for path in (output_dir / MANIFEST, *sorted(output_dir.glob(f"*/{MANIFEST}"))):
        if path.is_file() and (not has_runs or path.parent.name == grid):
            what = "is" if path.parent == output_dir else f"holds {path.parent.name}, which is"
            raise UserError(
                f"output_dir={output_dir} {what} an export: report and compare read it, and "
                "nothing runs there; name the runs' own output_dir, or another one"
            )
