"""What two names of ``compare``'s command line mean: methods, cells, folders of scores."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soarbench.common.errors import ConfigError, UserError
from soarbench.common.strict import did_you_mean
from soarbench.config.overrides import parse_overrides
from soarbench.report.numbers.measured import Key, Measured, of_cell, of_scored
from soarbench.report.numbers.names import (
    BASE,
    Titles,
    method_title,
    ordered_metrics,
    step_title,
    titles_of,
)
from soarbench.report.numbers.pairs import Pair, measured_pairs, panel_pair
from soarbench.report.numbers.panels import Panel, build_panels
from soarbench.report.numbers.protocols import refuse_unlike
from soarbench.report.numbers.settings import Values
from soarbench.report.numbers.tuning import unlike_settings
from soarbench.report.source import grid_cells, is_own_key, own_settings
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord
from soarbench.store.cells import FINISHED, Cell, finished_and_holes, stored_cell
from soarbench.store.exports import MANIFEST, Export


@dataclass(frozen=True, kw_only=True)
class Question:
    """The pairs that a command line means, one a metric, with task and steps in words."""

    pairs: Sequence[Pair]
    scope: str
    titles: Titles
    final_metric: str = ""
    grid: str = ""
    task: str = ""
    #: Settings in which the two differ, of each; empty where one has none that are known.
    settings: tuple[Values, Values] = ({}, {})


def find(names: tuple[str, str], settings: Sequence[str], step: int | None) -> Question:
    """Scores on disk, cells, or methods: what the two names are."""
    if (baseline := parse_overrides(settings).text("grid.baseline")) is not None:
        raise ConfigError(
            f"grid.baseline={baseline}: the difference is that of {names[0]} to {names[1]}; leave "
            "it out"
        )
    sides = [_side(name, settings, step) for name in names]
    if sides[0] is None and sides[1] is None:
        return _found_methods(names, settings, step)
    if all(sides):
        # A grid that is expanded looks at every word itself.
        _refuse_unread(settings)
    stepped = [name for name in names if step is not None and not _has_own_step(name)]
    if step is not None and not stepped:
        raise ConfigError(f"step={step}: {' and '.join(names)} say their own step; leave it out")
    # A method beside something that is none: all its training seeds; beside a cell the cell's, as
    # what is particular to that training would else be there in every difference, and in no test.
    seed = next((side.seed for side in sides if side is not None), None)
    first, second = (
        side or _method_side(name, settings, step, seed)
        for name, side in zip(names, sides, strict=True)
    )
    pairs = measured_pairs(names, first.measured, second.measured)
    final_metric = first.final_metric or second.final_metric or ""
    order = ordered_metrics({pair.evaluator: pair.facts for pair in pairs}, final_metric)
    return Question(
        pairs=sorted(pairs, key=lambda pair: order.index(pair.evaluator)),
        scope=f"{' and '.join(stepped)} after {step} steps" if stepped else "",
        titles={**first.titles, **second.titles},
        final_metric=final_metric,
        settings=unlike_settings(first.config, second.config),
    )


def _refuse_unread(settings: Sequence[str]) -> None:
    """``ConfigError`` where a word says nothing of cells and folders of scores."""
    overrides = parse_overrides(settings)
    words = [str(word) for word in overrides.values if not is_own_key(word.key)]
    for word in (*overrides.groups, *words):
        raise ConfigError(f"{word}: says nothing of cells and folders of scores; leave it out")


def _has_own_step(name: str) -> bool:
    """Whether it is a folder of scores, or a cell with a step."""
    return Path(name).expanduser().is_dir() or "@" in name


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one name of the command line stands for, with the metric that decides its task."""

    #: By (suite, judge), one a training seed; a single thing has one of seed None.
    measured: Mapping[Key, Mapping[int | None, Measured]]
    final_metric: str | None = None
    titles: Titles = field(default_factory=dict)
    #: Of the cell, as plain JSON.
    config: Values = field(default_factory=dict)
    #: That the cell was trained with.
    seed: int | None = None


def _side(name: str, settings: Sequence[str], step: int | None) -> Side | None:
    """A folder of scores, or a cell (``ID`` or ``ID@STEP``); None where it is neither."""
    if (folder := Path(name).expanduser()).is_dir():
        return Side(measured={key: {None: one} for key, one in of_scored(folder).items()})
    if "=" in name:
        raise ConfigError(f"{name}: is a setting, where a name is missing; name A and B")
    # Neither a cell nor a method has a slash, so a folder is meant.
    if "/" in name:
        raise UserError(f"{name}: no such folder; name one that score or evaluate wrote")
    cell_id, _, at = name.partition("@")
    cell = _cell(cell_id, settings)
    if cell is None:
        return None
    if at and not at.isdecimal():
        raise ConfigError(f"{name}: what follows @ must be a number of optimizer steps")
    if cell.state != FINISHED:
        raise UserError(f"{cell_id} is {cell.state}; run its grid to the end first")
    measured = of_cell(cell, int(at) if at else step)
    return Side(
        measured={key: {None: one} for key, one in measured.items()},
        final_metric=cell.final_metric,
        config=cell.config,
        seed=None if cell.is_base else cell.seed,
    )


def _method_side(
    name: str, settings: Sequence[str], step: int | None, seed: int | None = None
) -> Side:
    """A method of a grid, with all its training seeds, or with one."""
    grid, cells = _finished(settings)
    task = "" if name == BASE else _task(cells, (name, name), grid)
    own = {cell.seed for cell in cells if (cell.method, cell.task) == (name, task)}
    if seed is not None and own and seed not in own:
        raise UserError(
            f"{name} has seeds {', '.join(map(str, sorted(own)))}, and the cell has {seed}; name "
            "a cell of a seed that both have"
        )
    measured: dict[Key, dict[int | None, Measured]] = {}
    refuse_unlike([cell for cell in cells if (cell.method, cell.task) == (name, task)])
    for cell in cells:
        is_own = cell.task == task and seed in (None, cell.seed)
        if cell.method == name and (is_own or cell.is_base):
            for key, one in of_cell(cell, step).items():
                measured.setdefault(key, {})[None if cell.is_base else cell.seed] = one
    final_metric = next((c.final_metric for c in cells if c.task == task), None)
    config = next(cell.config for cell in cells if cell.method == name)
    return Side(
        measured=measured, final_metric=final_metric, titles=titles_of(cells), config=config
    )


def _finished(settings: Sequence[str]) -> tuple[str, list[Cell]]:
    """The name of a grid, and its finished cells."""
    source = grid_cells(settings)
    return source.grid, finished_and_holes(source.cells, str(source.folder))[0]


def _cell(name: str, settings: Sequence[str]) -> Cell | None:
    """The cell of that id under ``output_dir``; None where there is none."""
    # As parts of a path they would find a cell of any id.
    if name in ("", ".", ".."):
        return None
    root = Path(own_settings(settings).output_dir).expanduser()
    named = parse_overrides(settings).grid
    grids = "*" if named is None else glob.escape(named)
    records = {
        path.parents[1].name: CellRecord(path.parent)
        for path in root.glob(f"grids/{grids}/{glob.escape(name)}/cell.json")
    }
    if records:
        record = records[_only_grid(name, records)]
        return stored_cell(Store(root), record.description(), record)
    exported = {
        path.parent.name: cell
        for path in root.glob(f"{grids}/{MANIFEST}")
        for cell in Export(path.parent).cells()
        if cell.cell_id == name
    }
    return exported[_only_grid(name, exported)] if exported else None


def _only_grid(cell: str, grids: Iterable[str]) -> str:
    """The one grid that has a cell; each may judge the same weights on prompts of its own."""
    first, *others = sorted(grids)
    if others:
        choices = ", ".join(f"grid={name}" for name in (first, *others))
        raise UserError(f"{cell} is in {1 + len(others)} grids; choose one: {choices}")
    return first


def _found_methods(names: tuple[str, str], settings: Sequence[str], step: int | None) -> Question:
    """Two methods of a grid, over all seeds that they share."""
    grid, cells = _finished(settings)
    task = _task(cells, names, grid)
    chosen = [c for c in cells if c.is_base or (c.task == task and c.method in names)]
    refuse_unlike(chosen)
    # As panels, as a report has them: the same random numbers, and so the same intervals.
    panels, _ = build_panels(chosen)
    final_metric = next((cell.final_metric for cell in chosen if cell.final_metric), None) or ""
    steps: dict[str, int] = {}
    pairs = []
    facts = {evaluator: panel.facts for (_, evaluator), panel in panels.items()}
    for evaluator in ordered_metrics(facts, final_metric):
        panel = panels[task, evaluator]
        if all(map(panel.steps, names)):
            first, second = ((method, _step_of(panel, method, step)) for method in names)
            steps |= (first, second)
            pairs.append(panel_pair(panel, first, second))
    if not pairs:
        raise UserError(f"{' and '.join(names)} have no whole scores in task {task}")
    titles = titles_of(chosen)
    when = " and ".join(
        f"{method_title(name, titles)} ({step_title(name, at)})" for name, at in steps.items()
    )
    scope = f"task {task}, {when}"
    configs = [next(cell.config for cell in chosen if cell.method == name) for name in names]
    return Question(
        pairs=pairs, scope=scope, titles=titles, final_metric=final_metric, grid=grid, task=task,
        settings=unlike_settings(*configs),
    )  # fmt: skip


def _task(cells: Sequence[Cell], names: tuple[str, str], grid: str) -> str:
    """The one task in which both are finished."""
    methods = {cell.method for cell in cells}
    for name in names:
        if name not in methods:
            raise UserError(
                f"{name} is no finished method of grid {grid}, no cell id and no folder of "
                f"scores: {did_you_mean(name, methods)}"
            )
    of_method = [{c.task for c in cells if c.method == name} for name in names if name != BASE]
    tasks = sorted(set.intersection(*of_method))
    if len(tasks) != 1:
        choices = ", ".join(f"task={name}" for name in tasks) or "none has both"
        raise UserError(f"{' and '.join(names)} need one task: {choices}")
    return tasks[0]


def _step_of(panel: Panel, method: str, step: int | None) -> int:
    steps = panel.steps(method)
    if step is None or method == BASE:
        return steps[-1]  # The base has the one step 0.
    if step not in steps:
        choices = ", ".join(str(one) for one in steps)
        raise UserError(f"step={step}: {method} was evaluated at {choices}")
    return step
