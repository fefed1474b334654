"""Writes all figures of a report, each with its data beside it, and an index of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from soarbench.common.files import read_json, write_atomically
from soarbench.config.run import FORMATS
from soarbench.grid.checkpoint_rule import LAST
from soarbench.report.figures.bars import Bar, build_bars, draw_bars
from soarbench.report.figures.gaming import draw_deviation, draw_gaming, draw_overoptimisation
from soarbench.report.figures.sheets import Tile, draw_sheet, plan_sheet
from soarbench.report.figures.style_and_curves import AXIS_TITLES, draw_curves, save, settle
from soarbench.report.numbers.checkpoints import marked_steps
from soarbench.report.numbers.curves import CurvePoint, panel_points
from soarbench.report.numbers.diagnostics import (
    DeviationPoint,
    deviation_points,
    diagnostic_points,
    unmeasured,
)
from soarbench.report.numbers.gaming import GamingPoint, gaming_points
from soarbench.report.numbers.names import titles_of
from soarbench.report.numbers.reference import PublishedPoint
from soarbench.report.numbers.tables import Panels, TaskTable
from soarbench.report.numbers.trained_on import trained_on
from soarbench.report.report import FigureEntry, FigureSet
from soarbench.report.text.frames import csv_text, curve_numbers
from soarbench.store.cells import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

INDEX = "figures.json"


Row = CurvePoint | Bar | GamingPoint | DeviationPoint | Tile


def write_figures(
    cells: Sequence[Cell],
    panels: Panels,
    tables: Sequence[TaskTable],
    curves: Sequence[CurvePoint],
    folder: Path,
    *,
    axes: Sequence[str] = ("step",),
    published: Sequence[PublishedPoint] = (),
    checkpoint_rule: str = LAST,
    formats: Sequence[str] = FORMATS,
) -> FigureSet:
    """Write every figure that there is data for, and ``figures.json``.

    Figures of an earlier report that there is no data for any more are removed.

    Args:
        cells: Finished ones.
        panels: Their scores, by (task, evaluator).
        tables: One a task.
        curves: What the curves show, whose numbers are not estimated again.
        folder: Of the report.
        axes: What the curves are drawn over, a figure each.
        published: The paper's curves, where the protocol is the paper's.
        checkpoint_rule: Which step of each method is marked.
        formats: What figures are written as; sheets are PNG.

    Raises:
        StoreError: Stored diagnostics are damaged or do not compare.
    """
    writer = _Writer(folder, formats)
    facts = {name: about for table in tables for name, about in table.facts.items()}
    titles = titles_of(cells)
    for axis in axes:
        if axis == "step" or any(axis in point.spent for point in curves):
            name = "curves" if axis == "step" else f"curves_{axis}"
            draw = partial(draw_curves, curves, facts, x=axis, published=published, titles=titles)
            # All curves share one table, which has every axis as a column.
            numbers = ("curves", curve_numbers(curves))
            writer.figure(name, _curves_text(axis), curves, draw, data=numbers)
    bars = build_bars(panels, tables)
    writer.figure("bars", _BARS, bars, lambda: draw_bars(bars, facts, titles))
    gaming = gaming_points(panels)
    writer.figure("gaming", _GAMING, gaming, lambda: draw_gaming(gaming, facts, titles))
    for table in tables:
        if table.metrics:
            _write_task(table, cells, panels, curves, checkpoint_rule, writer)
    writer.finish()
    return FigureSet(entries=tuple(writer.entries), notes=tuple(writer.notes))


def _write_task(
    table: TaskTable,
    cells: Sequence[Cell],
    panels: Panels,
    curves: Sequence[CurvePoint],
    rule: str,
    writer: _Writer,
) -> None:
    task = table.task
    roles = _roles(table, cells)
    marked = marked_steps(rule, panels, task)
    missing = unmeasured(cells, task)
    if missing:
        writer.notes.append(
            f"task {task}: {len(missing)} cells have no diagnostics ({missing[0]} ...); "
            "'python -m soarbench diagnose' with the same settings measures them"
        )
    points = [*_score_points(table, panels, curves, roles)]
    points += diagnostic_points(cells, task, panels[task, table.metrics[0]].prompts)
    writer.figure(
        f"overoptimisation_{task}",
        _OVEROPTIMISATION.of(task),
        points,
        lambda: draw_overoptimisation(
            points, table.facts, roles, marked, rule, titles=table.titles
        ),
        marked=marked,
    )
    drift = deviation_points(cells, task)
    writer.figure(
        f"deviation_{task}",
        _DEVIATION.of(task),
        drift,
        lambda: draw_deviation(drift, table.titles),
    )
    tiles = plan_sheet(cells, task)
    absent = sum(not tile.is_stored for tile in tiles)
    if absent:
        writer.notes.append(f"task {task}: {absent} of the sheet's {len(tiles)} images are gone")
    # A sheet of nothing but hatched squares says no more than the note.
    shown = tiles if absent < len(tiles) else []
    writer.sheet(f"samples_{task}", _SAMPLES.of(task), shown, lambda: draw_sheet(shown))


def _roles(table: TaskTable, cells: Sequence[Cell]) -> dict[str, str]:
    """What each metric of a task was to its training, which titles its panel."""
    trained = trained_on([cell for cell in cells if cell.task == table.task])
    # What decides a task counts as trained on where the cells do not say: old stores.
    roles = {}
    for name in table.metrics:
        if table.facts[name].is_oracle:
            roles[name] = "Oracle"
        elif name in (trained or {table.final_metric}):
            roles[name] = "Trained on"
        else:
            roles[name] = "Held out"
    return roles


def _score_points(
    table: TaskTable,
    panels: Panels,
    curves: Sequence[CurvePoint],
    roles: Mapping[str, str],
) -> Iterator[CurvePoint]:
    """All metrics at all steps: trained on first, then oracles, then held-out ones."""
    order = ("Trained on", "Oracle", "Held out")
    for name in sorted(table.metrics, key=lambda name: order.index(roles[name])):
        known = [p for p in curves if (p.task, p.metric) == (table.task, name)]
        yield from known or panel_points(panels[table.task, name])


@dataclass(frozen=True)
class _Text:
    """Title and caption of a figure."""

    title: str
    caption: str

    def of(self, task: str) -> _Text:
        return _Text(f"{self.title}, task {task}", self.caption)


def _curves_text(axis: str) -> _Text:
    return _Text(
        f"Metric over {AXIS_TITLES[axis].lower()}",
        f"Each method's deciding metric over {AXIS_TITLES[axis].lower()}, from the base that all "
        "start from; bands are 95 % intervals over prompts and training seeds.",
    )


_BARS = _Text(
    "Change from the base",
    "What each method changed by its last step against the base on the same prompts and noise; "
    "bars whose 95 % interval holds zero are not distinguishable from the base.",
)
_GAMING = _Text(
    "Learned score against oracle",
    "Gains over the base in standard deviations of the base's images. Below the diagonal, and "
    "above zero on the right, the learned score gained more than the truth: reward hacking, "
    "measured. A noisy score gains less than the truth when a gain is real, so a gap below zero is "
    "no defect.",
)
_OVEROPTIMISATION = _Text(
    "Over-optimisation",
    "What was trained on beside what was not: oracle, held-out metrics, statistics of the images, "
    "diversity within a prompt, and the norm of the velocity relative to the base.",
)
_DEVIATION = _Text(
    "Drift from the training path",
    "RMS distance, in latent units, between the sampler's states and the straight path of a real "
    "image that training did not use, after leaving that path at a noise level. The distance also "
    "holds what no model can know (which image the noise ends in) and how well a model knows "
    "images of this kind, so its level alone is no exposure bias: compare methods that trained on "
    "the same data, and each with the base on the same images, as the lower row does.",
)
_SAMPLES = _Text(
    "Samples",
    "The same prompts and noise under every method, at the first, middle and last step of the "
    "lowest training seed; evenly spaced prompts, chosen by nothing else.",
)


class _Writer:
    """Writes figures and remembers them."""

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self.folder = folder
        self.formats = formats
        self.entries: list[FigureEntry] = []
        self.notes: list[str] = []

    def figure(
        self,
        name: str,
        text: _Text,
        rows: Sequence[Row],
        draw: Callable[[], Figure],
        *,
        marked: Mapping[str, int] | None = None,
        data: tuple[str, pd.DataFrame] | None = None,
    ) -> None:
        """Write a figure in all formats and its rows, or the named data; without rows nothing."""
        if not rows:
            return
        # Laid out once, so that all formats look alike.
        figure = settle(draw())
        for suffix in self.formats:
            path = self.folder / f"{name}.{suffix}"
            write_atomically(path, partial(save, figure, file_format=suffix))
        self._list(name, text, self.formats, data or (name, _numbers(rows, marked)))

    def sheet(
        self, name: str, text: _Text, rows: Sequence[Tile], draw: Callable[[], Image]
    ) -> None:
        """Write a sheet as PNG and its rows; without rows nothing."""
        if not rows:
            return
        picture = draw()
        write_atomically(self.folder / f"{name}.png", partial(picture.save, format="PNG"))
        self._list(name, text, ("png",), (name, _numbers(rows, None)))

    def _list(
        self, name: str, text: _Text, suffixes: Sequence[str], data: tuple[str, pd.DataFrame]
    ) -> None:
        file = f"{data[0]}.csv"
        write_atomically(self.folder / file, partial(_write, text=csv_text(data[1])))
        files = tuple(f"{name}.{suffix}" for suffix in suffixes)
        self.entries.append(
            FigureEntry(name=name, title=text.title, caption=text.caption, files=files, data=file)
        )

    def finish(self) -> None:
        """Write the index, and remove what an earlier one names and this one does not."""
        index = self.folder / INDEX
        kept = {name for entry in self.entries for name in (*entry.files, entry.data)}
        earlier = read_json(index)["figures"] if index.is_file() else []
        assert isinstance(earlier, list)
        # A figure that there is no data for any more would be a lie beside the new table.
        for entry in earlier:
            for name in {*entry["files"], entry["data"]} - kept:
                (self.folder / name).unlink(missing_ok=True)
        content = {"figures": [dataclasses.asdict(entry) for entry in self.entries]}
        text = json.dumps({**content, "notes": self.notes}, indent=1) + "\n"
        write_atomically(index, partial(_write, text=text))


def _write(path: Path, *, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _numbers(rows: Sequence[Row], marked: Mapping[str, int] | None) -> pd.DataFrame:
    """Dataclasses as a frame, a column a field; ``is_marked`` says which step a rule chose."""
    # Counters are in the curves' own table; where a cell lies is of the machine that drew.
    names = [f.name for f in dataclasses.fields(rows[0]) if f.name not in ("spent", "cell")]
    frame = pd.DataFrame([[getattr(row, name) for name in names] for row in rows], columns=names)
    if marked is not None:
        frame["is_marked"] = frame["method"].map(marked) == frame["step"]
    return frame
