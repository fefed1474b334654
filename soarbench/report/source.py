"""Which cells a command line means: those of a run, or those of an export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soarbench.common.code import changed
from soarbench.common.errors import ConfigError, UserError
from soarbench.common.strict import did_you_mean
from soarbench.config.compose import run_settings
from soarbench.config.overrides import Overrides, parse_overrides
from soarbench.config.run import FORMATS
from soarbench.config.settings import Settings, sizes_by_metric
from soarbench.config.stages import BASE
from soarbench.grid.checkpoint_rule import LAST
from soarbench.grid.description import cell_record, describe
from soarbench.grid.expand import Grid, expand
from soarbench.report.numbers.reference import PUBLISHED_MODEL
from soarbench.store.artefact import refuse_old
from soarbench.store.cells import Cell, stored_cell
from soarbench.store.exports import MANIFEST, Export, Manifest

#: What a command may say about an export beside method= and task=.
_KEYS = ("seeds", "output_dir", "results_dir", "margin", "detect", "figure_formats")
_OWN_KEYS = (*_KEYS, "tracking")
#: What differences are taken to is the reader's to choose; the cells stay what they are.
_BASELINE = "grid.baseline"


@dataclass(frozen=True, kw_only=True)
class GridCells:
    """The cells of one grid, wherever they lie: all that there should be, finished or not.

    Attributes:
        folder: Where they come from, for messages.
        baseline: Method that differences are taken to.
        show_published: Whether the paper's curves were made as these.
        checkpoint_rule: Which step of every curve the figures mark.
        margins: Differences that count as none, by metric.
        detects: Differences that should be seen, by metric.
        choices: What of an export was chosen that changes verdicts, a line each.
    """

    grid: str
    folder: Path
    results_dir: Path
    cells: tuple[Cell, ...]
    baseline: str
    show_published: bool = False
    checkpoint_rule: str = LAST
    formats: tuple[str, ...] = FORMATS
    margins: Mapping[str, float] = field(default_factory=dict)
    detects: Mapping[str, float] = field(default_factory=dict)
    choices: tuple[str, ...] = ()


def grid_cells(words: Sequence[str]) -> GridCells:
    """The cells of a command line, of which no model is loaded.

    Raises:
        ConfigError: It cannot be understood.
        UserError: It names no grid, and the folder does not say which.
    """
    overrides = parse_overrides(words)
    settings = own_settings(words)
    # Shells leave a ~ after = as it is.
    output_dir = Path(settings.output_dir).expanduser()
    if (output_dir / MANIFEST).is_file():
        raise UserError(
            f"output_dir={output_dir} is an export itself: name the folder that it is in, "
            f"output_dir={output_dir.parent}"
        )
    name = overrides.grid or _only_export(output_dir)
    if name is not None and (export := Export(output_dir / name)).exists:
        results_dir = Path(settings.results_dir).expanduser()
        return _exported(export, results_dir, overrides, settings)
    # Else the cells of an old folder would all be called not started.
    refuse_old(output_dir, name)
    return cells_of(expand(words))


def cells_of(grid: Grid) -> GridCells:
    """The cells of a run."""
    settings, store = grid.settings, grid.store
    descriptions = [describe(cell, grid.cells) for cell in grid.cells]
    cells = (stored_cell(store, one, cell_record(store, one)) for one in descriptions)
    return GridCells(
        grid=settings.grid.name, folder=grid.folder, cells=tuple(cells),
        results_dir=Path(settings.results_dir).expanduser(), baseline=settings.grid.baseline,
        show_published=(settings.model.name, settings.model.resolution) == PUBLISHED_MODEL,
        checkpoint_rule=settings.grid.checkpoint_rule, formats=settings.figure_formats,
        margins=sizes_by_metric("margin", settings.margin),
        detects=sizes_by_metric("detect", settings.detect),
    )  # fmt: skip


def own_settings(words: Sequence[str]) -> Settings:
    """The folders, seeds and tracking of a command line; ``ConfigError`` where they are wrong."""
    return run_settings(words, only=_OWN_KEYS)


def is_own_key(key: str) -> bool:
    """Whether ``own_settings`` looks at it."""
    return key.partition(".")[0] in _OWN_KEYS


def _only_export(output_dir: Path) -> str | None:
    """The grid of the one export in a folder; None where there is none."""
    names = sorted(path.parent.name for path in output_dir.glob(f"*/{MANIFEST}"))
    if len(names) > 1:
        raise UserError(
            f"output_dir={output_dir} holds {len(names)} grids; choose one: "
            + ", ".join(f"grid={name}" for name in names)
        )
    return names[0] if names else None


def _exported(
    export: Export, results_dir: Path, overrides: Overrides, settings: Settings
) -> GridCells:
    # A setting without effect would pass for one that the numbers were made with.
    keys = [word.key for word in overrides.values]
    for key in [*keys, *(group.partition("=")[0] for group in overrides.groups)]:
        if key not in (*_KEYS, _BASELINE):
            raise ConfigError(
                f"{key}=...: {export.root} is an export, whose cells are what they are; only "
                f"grid, method, task, {', '.join((*_KEYS, _BASELINE))} can be chosen"
            )
    manifest, every = export.manifest(), export.cells()
    methods, baseline = {cell.method for cell in every}, overrides.text(_BASELINE)
    # The grid's own may not have been exported.
    if baseline is not None and baseline not in methods:
        raise ConfigError(
            f"{_BASELINE}: {baseline!r} does not exist: {did_you_mean(baseline, methods)}"
        )
    chosen: dict[str, Sequence[object]] = {**overrides.axes}
    if "seeds" in keys:
        chosen["seeds"] = settings.seeds
    for key, values in chosen.items():
        _refuse_absent(export, key, values, every)
    # The base stays whatever is chosen: all curves start from it.
    cells = tuple(
        cell
        for cell in every
        if cell.is_base or all(_axis(cell, key) in values for key, values in chosen.items())
    )
    for key, values in chosen.items():
        _refuse_dropped(export, key, values, cells, every)
    if baseline is not None:
        _refuse_idle_baseline(export, baseline, cells)
    return GridCells(
        grid=manifest.grid, folder=export.root, results_dir=results_dir, cells=cells,
        baseline=baseline or manifest.baseline, show_published=manifest.show_published,
        checkpoint_rule=manifest.checkpoint_rule or LAST, formats=settings.figure_formats,
        margins=sizes_by_metric("margin", settings.margin),
        detects=sizes_by_metric("detect", settings.detect),
        choices=tuple(_choices(manifest, baseline, chosen, cells, every)),
    )  # fmt: skip


def _choices(
    manifest: Manifest,
    baseline: str | None,
    chosen: Mapping[str, Sequence[object]],
    cells: Sequence[Cell],
    every: Sequence[Cell],
) -> Iterator[str]:
    """What a reader must know of how an export was narrowed, or compared anew."""
    tasks = {cell.task for cell in cells}
    words = [f"{key}={_listed(chosen[key])}" for key in ("method", "seeds") if key in chosen]
    # Each task is a family of its own.
    if words and len(cells) < sum(cell.task in tasks for cell in every):
        yield (
            f"A part of an export, by {' '.join(words)}: p-values are corrected for this part "
            "alone, and hold where it was not picked for its numbers."
        )
    if baseline not in (None, manifest.baseline):
        yield (
            f"Compared with {baseline}, where the grid was made to be compared with "
            f"{manifest.baseline}: p-values are not corrected for both."
        )


def _axis(cell: Cell, key: str) -> object:
    return {"method": cell.method, "task": cell.task, "seeds": cell.seed}[key]


def _refuse_absent(
    export: Export, key: str, values: Sequence[object], cells: Sequence[Cell]
) -> None:
    """``UserError`` where no cell has a value: a page of the base alone would be no answer."""
    # The base is of every task and seed.
    own = (cell for cell in cells if key == "method" or not cell.is_base)
    known = sorted({str(_axis(cell, key)) for cell in own})
    absent = [str(value) for value in values if str(value) not in known]
    if absent:
        raise UserError(
            f"{key}={','.join(absent)}: {export.root} has {key} {', '.join(known)} alone"
        )


def _refuse_dropped(
    export: Export,
    key: str,
    values: Sequence[object],
    cells: Sequence[Cell],
    every: Sequence[Cell],
) -> None:
    """``UserError`` where nothing is left of a value, or nothing but the base."""
    own = [cell for cell in cells if not cell.is_base]
    if not own and any(not cell.is_base for cell in every):
        raise UserError(f"{key}={_listed(values)}: leaves nothing of {export.root} but the base")
    left = {_axis(cell, key) for cell in own} | {BASE}
    for value in (value for value in values if value not in left):
        of_value = [cell for cell in every if not cell.is_base and _axis(cell, key) == value]
        has = ", ".join(
            f"{other}={_listed(sorted({_axis(cell, other) for cell in of_value}, key=str))}"
            for other in ("method", "task", "seeds")
            if other != key
        )
        raise UserError(f"{key}={value}: {export.root} has it with {has} alone")


def _refuse_idle_baseline(export: Export, baseline: str, cells: Sequence[Cell]) -> None:
    """``UserError`` where a task that is shown has no cell of the baseline that was asked for."""
    tasks = {cell.task for cell in cells if not cell.is_base}
    for task in sorted(tasks) if baseline != BASE else ():
        if baseline not in {cell.method for cell in cells if cell.task == task}:
            raise UserError(
                f"{_BASELINE}={baseline}: {export.root} has none in task {task} of what was "
                "chosen; choose it with method=, or leave the task out with task="
            )


def _listed(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def stale_lines(cells: Sequence[Cell]) -> list[str]:
    """A line about results that other code than today's made; none where all is as it was."""
    names: dict[tuple[str, ...], list[str]] = {}
    for cell in cells:
        modules = tuple(changed(cell.code))
        if modules:
            names.setdefault(modules, []).append(cell.cell_id)
    return [
        f"{len(ids)} {'cells were' if len(ids) > 1 else 'cell was'} made by other code of "
        f"{', '.join(modules)} than today's, e.g. {ids[0]}; stale=rerun makes them again"
        for modules, ids in names.items()
    ]
