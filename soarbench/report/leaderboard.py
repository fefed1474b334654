"""Exported grids side by side on one page, as far as they were measured alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from soarbench import __version__
from soarbench.common.errors import StoreError, UserError
from soarbench.report.numbers.names import BASE, distinct_titles
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.protocols import differing, refuse_unlike, task_protocols, unlike_text
from soarbench.report.numbers.tables import HOW_DECIDED, MethodRow, TaskTable, build_tables
from soarbench.report.page.tables import DataTable, data_table
from soarbench.report.text.frames import NOTHING, amount, number_text, value_text
from soarbench.store.cells import Cell, finished_and_holes
from soarbench.store.exports import MANIFEST, Export
from soarbench.store.tables import Facts

#: What a task's methods spent, of all counters.
_COST = "forward_equivalents"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One exported grid.

    Attributes:
        name: Of the folder that was published, and of the grid.
        cells: Finished.
        tables: One a task; differences are taken to the base.
    """

    name: str
    cells: tuple[Cell, ...]
    tables: tuple[TaskTable, ...]

    @property
    def is_trials(self) -> bool:
        """Whether its cells are trials, which choose settings."""
        return any(cell.trial_of is not None for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A method of an entry in a task, with what orders it."""

    entry: Entry
    table: TaskTable
    row: MethodRow

    @property
    def rank(self) -> float:
        """Larger is better; what was not measured comes last."""
        estimate = self.row.estimates.get(self.table.final_metric)
        if estimate is None or estimate.interval is None:
            return float("-inf")
        return self.table.facts[self.table.final_metric].sign * estimate.interval.estimate


def entries(folders: Sequence[Path]) -> list[Entry]:
    """The grids of exports but trials of settings; each folder holds one, or a folder each.

    Raises:
        UserError: A folder holds no export, or none is of results.
        StoreError: Grids were measured under unlike protocols; names them and the fields.
    """
    found = [_entry(export, folder) for folder in folders for export in _exports(folder)]
    results = [entry for entry in found if not entry.is_trials]
    if not results:
        names = ", ".join(entry.name for entry in found)
        raise UserError(
            f"exports: {names}: trials choose settings and are no results; name the export of a "
            "grid that compares methods"
        )
    _refuse_unlike(results)
    return results


def _exports(folder: Path) -> list[Export]:
    paths = [folder] if (folder / MANIFEST).is_file() else sorted(folder.glob(f"*/{MANIFEST}"))
    exports = [Export(path if path == folder else path.parent) for path in paths]
    if not exports:
        raise UserError(f"exports: {folder} holds no export; name a folder that 'export' wrote")
    return exports


def _entry(export: Export, folder: Path) -> Entry:
    cells, _ = finished_and_holes(export.cells(), str(export.root))
    refuse_unlike(cells)
    panels, holes = build_panels(cells)
    names = dict.fromkeys((folder.resolve().name, export.root.resolve().name))
    tables = build_tables(cells, panels, holes, baseline=BASE)
    return Entry(name="/".join(names), cells=tuple(cells), tables=tuple(tables))


def _refuse_unlike(found: Sequence[Entry]) -> None:
    first: dict[tuple[str, str, str], tuple[str, Facts]] = {}
    for entry in found:
        protocols = _protocols(entry)
        for key, protocol in protocols.items():
            name, before = first.setdefault(key, (entry.name, protocol))
            if fields := differing(before, protocol):
                raise StoreError(unlike_text(key[2], name, entry.name, fields))


def _protocols(entry: Entry) -> dict[tuple[str, str, str], Facts]:
    """By task, suite and judge; with the part of the suite, and what decides the task."""
    deciding = {table.task: table.final_metric for table in entry.tables}
    extents = {
        (cell.task, suite): facts["max_prompts"]
        for cell in entry.cells
        for suite, facts in cell.description["suites"].items()
    }
    return {
        key: {**facts, "max_prompts": extents[key[:2]], "final_metric": deciding[key[0]]}
        for key, facts in task_protocols(entry.cells).items()
        # The base is of every task.
        if key[0] in deciding
    }


def leaderboard_html(found: Sequence[Entry], title: str) -> str:
    """One self-contained page: a table a task, best first by the metric that decides it."""
    tasks: dict[str, list[Standing]] = {}
    for entry in found:
        for table in entry.tables:
            # Of a method without a finished cell there is nothing to rank.
            for row in (row for row in table.rows if table.metrics and row.cell_ids):
                one = Standing(entry=entry, table=table, row=row)
                tasks.setdefault(table.task, []).append(one)
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page" / "templates"),
        autoescape=True,  # names come from whoever exported
        undefined=StrictUndefined,
    )
    tables = [_table(task, _once(own)) for task, own in sorted(tasks.items())]
    return jinja.get_template("leaderboard.html.j2").render(
        title=title, tables=tables, rule=HOW_DECIDED, version=__version__
    )


def _once(standings: Sequence[Standing]) -> list[Standing]:
    """One task's, without those whose cells are all in another of the same method."""
    # Grids share cells, such as the base: of the same number over fewer seeds a reader would take
    # the one for a second result.
    kept: dict[str, list[Standing]] = {}
    for one in sorted(standings, key=lambda one: -len(one.row.cell_ids)):
        own = kept.setdefault(one.row.method, [])
        if not any(set(one.row.cell_ids) <= set(other.row.cell_ids) for other in own):
            own.append(one)
    return [one for own in kept.values() for one in own]


def _table(task: str, standings: Sequence[Standing]) -> DataTable:
    ordered = sorted(standings, key=lambda one: -one.rank)
    table = ordered[0].table
    facts = table.facts[table.final_metric]
    way = "higher is better" if facts.higher_is_better else "lower is better"
    caption = f"Task {task}, decided by {facts.title} ({facts.unit}; {way})"
    every = {name: own for one in standings for name, own in one.table.facts.items()}
    titles = distinct_titles(every, table.final_metric)
    lines = [_line(one, titles) for one in ordered]
    return data_table(caption, pd.DataFrame(lines).fillna(NOTHING), texts=3)


def _line(one: Standing, titles: Mapping[str, str]) -> Mapping[str, str]:
    table, row = one.table, one.row
    comparison = row.comparisons.get(table.final_metric)
    compared = {"vs base [95 %]": "", "Verdict": "", "Comparisons": ""}
    if comparison is not None:
        decimals = table.facts[table.final_metric].decimals
        text = number_text(comparison.difference, decimals, sign="+")
        compared = {
            "vs base [95 %]": text,
            "Verdict": str(comparison.verdict),
            "Comparisons": str(len(table.family)),
        }
    values = {
        f"{titles[name]} [95 %]": value_text(row.estimates.get(name), facts)
        for name, facts in table.facts.items()
    }
    heads = list(values)
    deciding = f"{titles[table.final_metric]} [95 %]"
    return {
        "Method": table.title(row.method),
        "Published as": one.entry.name,
        "Base": _base(one),
        deciding: values[deciding],
        **compared,
        **{head: values[head] for head in heads if head != deciding},
        "Seeds": str(len(row.cell_ids)) if row.budget else "",
        "Forward equivalents": amount(row.budget, _COST),
    }


def _base(one: Standing) -> str:
    (cell,) = [cell for cell in one.entry.cells if cell.cell_id == one.row.cell_ids[0]]
    model = cell.config.get("model")
    if not isinstance(model, Mapping):
        return NOTHING
    return f"{model['name']}, {model['resolution']}\u00a0px"
