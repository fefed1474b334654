"""``sync``: deliver to MLflow what it did not get when it was away, or has lost since."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from soarbench.cli.exported import refuse_exports
from soarbench.common.errors import UserError, without_passwords
from soarbench.common.files import locked
from soarbench.common.progress import print_line
from soarbench.config.compose import folder_settings
from soarbench.config.folders import CONF_DIR
from soarbench.config.keys import split
from soarbench.config.overrides import parse_overrides
from soarbench.grid import addresses
from soarbench.grid.expand import Grid
from soarbench.jobs.delivery import Rest, deliver_rest
from soarbench.store.artefact import Store, refuse_old

if TYPE_CHECKING:
    from soarbench.tracking.tracker import Tracker


def sync(words: Sequence[str], *, console: Console) -> int:
    """Deliver all that MLflow does not have of an output directory. -> 1 when some is left."""
    settings, chosen = folder_settings(words), parse_overrides(words)
    if not settings.tracking.enabled:
        raise UserError("tracking=none delivers to nobody: leave it out, or name a tracking.uri")
    store = Store(Path(settings.output_dir).expanduser())
    refuse_old(store.root, chosen.grid)
    # MLflow takes seconds to import.
    from soarbench.tracking.tracker import open_tracker

    code = 0
    for folder in _folders(store, chosen.text("grid.name") or chosen.grid):
        with locked(folder):
            lines: list[str] = []
            tracker = open_tracker(settings.tracking, folder, lines.append)
            rest = deliver_rest(store, folder.name, tracker)
        text = f"{folder.name}: delivered {rest.delivered} cells, {rest.left} are left"
        print_line(console, "; ".join([text, *rest.problems]), "red" if rest.problems else None)
        code = 1 if rest.problems else code
    return code


def _folders(store: Store, name: str | None) -> list[Path]:
    """Of the grid that is named, or of all; ``UserError`` where there is none."""
    folders = sorted(
        path.parent.parent for path in store.root.glob(f"grids/{name or '*'}/*/cell.json")
    )
    if not folders:
        refuse_exports(store.root)
        what = f"grid {name!r}" if name else "grid"
        raise UserError(f"output_dir={store.root} holds no {what}; name another output_dir")
    return list(dict.fromkeys(folders))


def deliver_grid(grid: Grid, tracker: Tracker | None, console: Console) -> None:
    """Deliver what is left of a grid after its jobs, and say what could not be."""
    from soarbench.tracking.tracker import open_tracker

    lines: list[str] = []
    tracker = tracker or open_tracker(grid.settings.tracking, grid.folder, lines.append)
    cell_ids = {addresses.cell_id(cell) for cell in grid.cells}
    rest = deliver_rest(grid.store, grid.settings.grid.name, tracker, cell_ids)
    if rest.delivered:
        print_line(console, f"delivered {rest.delivered} cells that MLflow did not have")
    if rest.problems:
        print_line(console, _undelivered(rest, grid), "yellow")


def store_command(name: str, grid: Grid, *more: str) -> str:
    """A command about the store of a grid, with what of its words says where that is."""
    kept = ("output_dir", "tracking", CONF_DIR)
    words = [word for word in grid.arguments if split(word).key.partition(".")[0] in kept]
    return without_passwords(shlex.join(("python", "-m", "soarbench", name, *more, *words)))


def _undelivered(rest: Rest, grid: Grid) -> str:
    command = store_command("sync", grid, f"grid={grid.settings.grid.name}")
    return (
        f"NOT DELIVERED {rest.left} of {len(grid.cells)} cells ({rest.problems[0]}); no result is "
        f"lost: the same command, or {command}, delivers them"
    )
