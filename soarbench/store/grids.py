"""Which stored cells a command line means: those of a launch, or a published copy of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soarbench.common.errors import ConfigError, UserError
from soarbench.common.files import read_json
from soarbench.common.provenance import STORE_VERSION
from soarbench.config.compose import Overrides, parse_overrides, run_settings
from soarbench.config.run import FORMATS
from soarbench.config.settings import Settings
from soarbench.grid.checkpoint_rule import LAST
from soarbench.grid.expand import Plan, expand
from soarbench.report.numbers.reference import PUBLISHED_MODEL
from soarbench.store.cells import PlannedCell

#: Of a published copy; names its cells, finished or not.
MANIFEST = "export.json"
#: What a command may say about a published copy beside method= and task=.
_KEYS = ("seeds", "output_dir", "results_dir")


@dataclass(frozen=True, kw_only=True)
class ListedCell:
    """A cell that a published copy lists; see ``PlannedCell``."""

    cell_id: str
    task_name: str
    method_name: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class StoredGrid:
    """Cells of one grid, wherever they lie.

    Attributes:
        grid: Its name.
        folder: ``OUTPUT_DIR/GRID``.
        results_dir: Where reports go.
        cells: That there should be.
        baseline: Method that differences are taken to.
        show_published: Whether the paper's curves were made as these.
        checkpoint_rule: Which step of every curve the figures mark.
        formats: What figures are written as.
    """

    grid: str
    folder: Path
    results_dir: Path
    cells: tuple[PlannedCell, ...]
    baseline: str
    show_published: bool = False
    checkpoint_rule: str = LAST
    formats: tuple[str, ...] = FORMATS


def stored_grid(words: Sequence[str]) -> StoredGrid:
    """Find the cells of a command line; loads no model.

    Raises:
        ConfigError: The command line cannot be understood.
        UserError: It names no grid, and the folder does not say which.
    """
    overrides = parse_overrides(words)
    settings = own_settings(words)
    output_dir = Path(settings.output_dir).expanduser()
    grid = overrides.grid or _only_copy(output_dir)
    if grid is not None and (output_dir / grid / MANIFEST).is_file():
        results_dir = Path(settings.results_dir).expanduser()
        return _copy(output_dir / grid, results_dir, overrides, settings.seeds)
    return planned_grid(expand(words))


def planned_grid(plan: Plan) -> StoredGrid:
    """The cells of a launch."""
    settings = plan.settings
    return StoredGrid(
        grid=settings.grid.name,
        folder=plan.folder,
        results_dir=Path(settings.results_dir).expanduser(),
        cells=plan.cells,
        baseline=settings.grid.baseline,
        show_published=(settings.model.name, settings.model.resolution) == PUBLISHED_MODEL,
        checkpoint_rule=settings.grid.checkpoint_rule,
        formats=settings.figure_formats,
    )


def own_settings(words: Sequence[str]) -> Settings:
    """The folders, seeds and tracking of a command line, whatever else it says.

    Raises:
        ConfigError: They cannot be understood.
    """
    return run_settings(words, only=(*_KEYS, "tracking"))


def _only_copy(output_dir: Path) -> str | None:
    """The grid of the one published copy in a folder; None where there is none."""
    found = sorted(path.parent.name for path in output_dir.glob(f"*/{MANIFEST}"))
    if len(found) > 1:
        raise UserError(
            f"output_dir={output_dir} holds {len(found)} grids; choose one: "
            + ", ".join(f"grid={name}" for name in found)
        )
    return found[0] if found else None


def _copy(
    folder: Path, results_dir: Path, overrides: Overrides, seeds: Sequence[int]
) -> StoredGrid:
    """The cells that a published copy lists, as far as the command line keeps them."""
    keys = [word.key for word in overrides.values]
    for key in [*keys, *(group.partition("=")[0] for group in overrides.groups)]:
        if key not in _KEYS:
            raise ConfigError(
                f"{key}=...: {folder} is a published copy, whose cells are what they are; only "
                f"grid, method, task, {', '.join(_KEYS)} can be chosen"
            )
    manifest = read_manifest(folder)
    methods = overrides.axes.get("method")
    tasks = overrides.axes.get("task")
    cells = tuple(
        cell
        for cell in listed_cells(manifest)
        if cell.task_name == "base"
        or (
            (methods is None or cell.method_name in methods)
            and (tasks is None or cell.task_name in tasks)
            and ("seeds" not in keys or cell.seed in seeds)
        )
    )
    return StoredGrid(
        grid=folder.name,
        folder=folder,
        results_dir=results_dir,
        cells=cells,
        baseline=str(manifest["baseline"]),
    )


def read_manifest(folder: Path) -> Mapping[str, object]:
    """The manifest of a published copy.

    Raises:
        UserError: It is damaged or of another version.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    version = manifest.get("version")
    if version not in range(1, STORE_VERSION + 1) or not {"baseline", "cells"} <= set(manifest):
        raise UserError(
            f"{path} is of store version {version}, and this soarbench reads 1 to {STORE_VERSION}; "
            "install the soarbench that wrote it"
        )
    return manifest


def listed_cells(manifest: Mapping[str, object]) -> list[ListedCell]:
    """The cells of a manifest."""
    listed = manifest["cells"]
    assert isinstance(listed, list)
    return [
        ListedCell(
            cell_id=str(cell["cell_id"]),
            task_name=str(cell["task"]),
            method_name=str(cell["method"]),
            seed=int(cell["seed"]),
        )
        for cell in listed
    ]
