"""Writes all figures of a report, each with its data beside it, and an index of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from soarbench.common.files import read_passing, write_atomically
from soarbench.config.run import FORMATS
from soarbench.grid.checkpoint_rule import LAST
from soarbench.report.figures.bars import Bar, build_bars, draw_bars
from soarbench.report.figures.curves import AXIS_TITLES, draw_curves
from soarbench.report.figures.exposure import draw_exposure, draw_robustness
from soarbench.report.figures.forest import draw_forest
from soarbench.report.figures.gaming import draw_gaming, draw_overoptimisation
from soarbench.report.figures.layout import save, settle
from soarbench.report.figures.sheets import Tile, draw_sheet, plan_sheet
from soarbench.report.numbers import diagnostics
from soarbench.report.numbers.checkpoints import marked_steps
from soarbench.report.numbers.curves import CurvePoint, build_differences, panel_points
from soarbench.report.numbers.exposure import ExposurePoint
from soarbench.report.numbers.forest import ForestPart
from soarbench.report.numbers.gaming import Gaming
from soarbench.report.numbers.names import BASE, titles_of
from soarbench.report.numbers.reference import PublishedPoint
from soarbench.report.numbers.robustness import RobustnessPoint
from soarbench.report.numbers.tables import Panels, TaskTable
from soarbench.report.numbers.trained_on import trained_on
from soarbench.report.report import FigureEntry, FigureSet
from soarbench.report.text.frames import csv_text, curve_numbers, write_text
from soarbench.report.text.gaming import point_numbers
from soarbench.report.text.headline import forest_numbers
from soarbench.store.cells import Cell

Row = CurvePoint | ForestPart | Bar | Gaming | ExposurePoint | RobustnessPoint | Tile
#: Title and caption of each kind of figure; the curves name their axis.
_TEXTS = {
    "curves": (
        "Metric over {0}",
        "Each method's deciding metric over {0}. Markers were measured, and lines only join them; "
        "from the base, where all start, nothing was measured up to the first. Bands are 95 % "
        "intervals over prompts and training seeds: of each method alone, and, where there is a "
        "lower row, of the paired difference to the baseline at the same step, or at its last one. "
        "A task that is drawn alone has its other metrics beside it, which decide nothing. In the "
        "data of this figure, steps and cost of a second stage count from its own start.",
    ),
    "forest": (
        "Paired differences",
        "Each method against the baseline by the deciding metric, at its last step and at equal "
        "cost; lines are 95 % intervals of the difference on the same prompts, noise and training "
        "seeds. Filled markers are decided after Holm's correction.",
    ),
    "bars": (
        "Change from the base",
        "What each method changed by its last step against the base on the same prompts and noise; "
        "bars whose 95 % interval holds zero are not distinguishable from the base.",
    ),
    "gaming": (
        "Learned score against oracle",
        "Gains over the base in standard deviations of the base's images. The line is what "
        "choosing among the base's images by the score gains without training: an imperfect score "
        "mostly gains more than the truth even where nobody exploits it. Below the line, and above "
        "zero in the middle, a method whose score rose found what the score likes and the truth "
        "does not. On the right, how well the score still ranks a prompt's images.",
    ),
    "overoptimisation": (
        "Over-optimisation",
        "What was trained on beside what was not: oracle, held-out metrics, statistics of the "
        "images, diversity within a prompt, and the norm of the velocity relative to the base.",
    ),
    "exposure": (
        "Exposure bias",
        "On real images (in the laboratory held-out ones, elsewhere rows that were trained on); "
        "less is better. Error on the path: squared, of "
        "the velocity. More off the path: at states that the base drifted to, the same for all, "
        "the error against the velocity back to the image, minus that on the path; a model steers "
        "back better where this is less and the error on the path is not more. Left of a kick: "
        "RMS at the end of sampling over that of a random kick, or of one along the model's own "
        "drift; it falls, too, when a model loses diversity. Own states: energy score of states of "
        "sampling from noise against noised images of the same prompt and level, which rises when "
        "a model loses diversity that the data have. Filled markers differ from the baseline after "
        "Holm's correction over methods, levels and measures.",
    ),
    "robustness": (
        "Scores by sampler",
        "The last step's images by samplers with other numbers of steps, with fresh noise in "
        "every state (RMS of the whole way), and with other guidance. Left, each method's score; "
        "right, by how much its difference to the baseline is another than by the usual sampler: "
        "above zero (where more is better) it bears the sampler's errors better than the baseline "
        "does. Paired by image and seed; the deciding metric alone decides, after Holm's "
        "correction over methods and samplers.",
    ),
    "samples": (
        "Samples",
        "The same prompts and noise under every method, at the first, middle and last step of the "
        "lowest training seed; evenly spaced prompts, chosen by nothing else.",
    ),
}


def write_figures(
    cells: Sequence[Cell],
    panels: Panels,
    tables: Sequence[TaskTable],
    curves: Sequence[CurvePoint],
    folder: Path,
    *,
    forest: Sequence[ForestPart] = (),
    gaming: Sequence[Gaming] = (),
    statistics: Mapping[str, pd.DataFrame],
    axes: Sequence[str] = ("step",),
    published: Sequence[PublishedPoint] = (),
    checkpoint_rule: str = LAST,
    formats: Sequence[str] = FORMATS,
    exposure: Sequence[ExposurePoint] = (),
    robustness: Sequence[RobustnessPoint] = (),
) -> FigureSet:
    """Write every figure that there is data for, and ``figures.json``.

    Figures of an earlier report that there is no data for any more are removed. ``axes`` are what
    the curves are drawn over, a figure each; ``formats`` those of figures, while sheets are PNG:
    without any, the figures' data alone are written; ``statistics`` those of each task's images.

    Raises:
        StoreError: Stored diagnostics are damaged or do not compare.
    """
    writer = _Writer(folder, formats)
    facts = {name: about for table in tables for name, about in table.facts.items()}
    titles = titles_of(cells)
    compared = [part for part in forest if part.comparisons]
    data = ("forest", forest_numbers(compared))
    writer.figure("forest", _TEXTS["forest"], compared, partial(draw_forest, compared), data=data)
    leads = build_differences(panels, tables, curves)
    baseline = next((table.baseline for table in tables), BASE)
    for axis in axes:
        if axis == "step" or any(axis in point.spent for point in curves):
            name = "curves" if axis == "step" else f"curves_{axis}"
            title, caption = (text.format(AXIS_TITLES[axis].lower()) for text in _TEXTS["curves"])
            draw = partial(
                draw_curves, curves, facts, x=axis, differences=leads, baseline=baseline,
                published=published, titles=titles,
            )  # fmt: skip
            # All curves share one table, which has every axis as a column.
            data = ("curves", curve_numbers(curves, leads))
            writer.figure(name, (title, caption), curves, draw, data=data)
    bars = build_bars(panels, tables)
    writer.figure("bars", _TEXTS["bars"], bars, lambda: draw_bars(bars, facts, titles))
    drawn = [one for one in gaming if any(point.method != BASE for point in one.points)]
    draw = partial(draw_gaming, drawn, titles)
    data = ("gaming", point_numbers(drawn))
    writer.figure("gaming", _TEXTS["gaming"], drawn, draw, data=data)
    for table in tables:
        if table.metrics:
            own = statistics.get(table.task, pd.DataFrame())
            off_path = _OffPath(exposure=exposure, robustness=robustness)
            _write_task(table, cells, panels, curves, own, off_path, checkpoint_rule, writer)
    writer.finish()
    return FigureSet(entries=tuple(writer.entries), notes=tuple(writer.notes))


@dataclass(frozen=True, kw_only=True)
class _OffPath:
    """What was measured off the training path, of all tasks."""

    exposure: Sequence[ExposurePoint]
    robustness: Sequence[RobustnessPoint]


def _write_task(
    table: TaskTable,
    cells: Sequence[Cell],
    panels: Panels,
    curves: Sequence[CurvePoint],
    statistics: pd.DataFrame,
    off_path: _OffPath,
    rule: str,
    writer: _Writer,
) -> None:
    task, roles = table.task, _roles(table, cells)
    texts = {kind: (f"{title}, task {task}", text) for kind, (title, text) in _TEXTS.items()}
    marked = marked_steps(rule, panels, task)
    missing = diagnostics.unmeasured(cells, task)
    if missing:
        writer.notes.append(
            f"task {task}: {len(missing)} cells have no diagnostics ({missing[0]} ...); "
            "'python -m soarbench diagnose' with the same settings measures them"
        )
    points = [*_score_points(table, panels, curves, roles)]
    points += diagnostics.diagnostic_points(cells, task, statistics)
    draw = partial(
        draw_overoptimisation, points, table.facts, roles, marked, rule, titles=table.titles
    )
    name = f"overoptimisation_{task}"
    writer.figure(name, texts["overoptimisation"], points, draw, marked=marked)
    own = [point for point in off_path.exposure if point.task == task]
    if not own and not missing:
        writer.notes.append(
            f"task {task}: exposure bias was measured by another version, or not at all; "
            "'python -m soarbench diagnose' with the same settings measures it"
        )
    draw = partial(draw_exposure, own, table.titles)
    writer.figure(f"exposure_{task}", texts["exposure"], own, draw)
    scores = [point for point in off_path.robustness if point.task == task]
    draw = partial(draw_robustness, scores, table.facts, table.titles)
    writer.figure(f"robustness_{task}", texts["robustness"], scores, draw)
    tiles = plan_sheet(cells, task)
    absent = sum(not tile.is_stored for tile in tiles)
    if absent:
        gone = f"{absent} of the sheet's {len(tiles)} images are gone"
        # An export has none of them.
        text = gone if absent < len(tiles) else f"no image is here, so samples_{task} is left out"
        writer.notes.append(f"task {task}: {text}")
    # A sheet of nothing but hatched squares says no more than the note.
    if absent < len(tiles):
        writer.sheet(f"samples_{task}", texts["samples"], tiles)


def _roles(table: TaskTable, cells: Sequence[Cell]) -> dict[str, str]:
    """What each metric of a task was to its training, which titles its panel."""
    # What decides a task counts as trained on where the cells do not say: old stores.
    trained = trained_on([cell for cell in cells if cell.task == table.task])
    roles = {
        name: "Trained on" if name in (trained or {table.final_metric}) else "Held out"
        for name in table.metrics
    }
    return roles | {name: "Oracle" for name in roles if table.facts[name].is_oracle}


def _score_points(
    table: TaskTable, panels: Panels, curves: Sequence[CurvePoint], roles: Mapping[str, str]
) -> Iterator[CurvePoint]:
    """All metrics at all steps: trained on first, then oracles, then held-out ones."""
    order = ("Trained on", "Oracle", "Held out")
    for name in sorted(table.metrics, key=lambda name: order.index(roles[name])):
        known = [p for p in curves if (p.task, p.metric) == (table.task, name)]
        yield from known or panel_points(panels[table.task, name])


class _Writer:
    """Writes figures and remembers them; a text is a title and a caption."""

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self.folder = folder
        self.formats = formats
        self.entries: list[FigureEntry] = []
        self.notes: list[str] = []

    def figure(
        self,
        name: str,
        text: tuple[str, str],
        rows: Sequence[Row],
        draw: Callable[[], Figure],
        *,
        marked: Mapping[str, int] | None = None,
        data: tuple[str, pd.DataFrame] | None = None,
    ) -> None:
        """Write a figure in all formats and its rows, or the named data; without rows nothing."""
        if not rows:
            return
        writes: dict[str, Callable[[Path], None]] = {}
        if self.formats:
            # Laid out once, so that all formats look alike.
            figure = settle(draw())
            writes = {kind: partial(save, figure, file_format=kind) for kind in self.formats}
        self._add(name, text, writes, data or (name, _numbers(rows, marked)))

    def sheet(self, name: str, text: tuple[str, str], tiles: Sequence[Tile]) -> None:
        """Write a sheet as PNG and its tiles."""
        writes = {"png": partial(draw_sheet(tiles).save, format="PNG")} if self.formats else {}
        self._add(name, text, writes, (name, _numbers(tiles)))

    def _add(
        self,
        name: str,
        text: tuple[str, str],
        writes: Mapping[str, Callable[[Path], None]],
        data: tuple[str, pd.DataFrame],
    ) -> None:
        for suffix, write in writes.items():
            write_atomically(self.folder / f"{name}.{suffix}", write)
        table, frame = f"{data[0]}.csv", data[1]
        write_text(self.folder / table, csv_text(frame))
        files = tuple(f"{name}.{suffix}" for suffix in writes)
        title, caption = text
        self.entries.append(
            FigureEntry(name=name, title=title, caption=caption, files=files, data=table)
        )

    def finish(self) -> None:
        """Write the index, and remove what an earlier one names and this one does not."""
        index = self.folder / "figures.json"
        kept = {name for entry in self.entries for name in (*entry.files, entry.data)}
        earlier = (read_passing(index) or {}).get("figures", [])
        assert isinstance(earlier, list)
        # A figure that there is no data for any more would be a lie beside the new table.
        for entry in earlier:
            for name in {*entry["files"], entry["data"]} - kept:
                (self.folder / name).unlink(missing_ok=True)
        entries = [dataclasses.asdict(entry) for entry in self.entries]
        write_text(index, json.dumps({"figures": entries, "notes": self.notes}, indent=1) + "\n")


def _numbers(rows: Sequence[Row], marked: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Dataclasses as a frame, a column a field; ``is_marked`` says which step a rule chose."""
    # Counters are in the curves' own table; where a cell lies is of the machine that drew.
    names = [f.name for f in dataclasses.fields(rows[0]) if f.name not in ("spent", "cell")]
    frame = pd.DataFrame([[getattr(row, name) for name in names] for row in rows], columns=names)
    if marked is not None:
        frame["is_marked"] = frame["method"].map(marked) == frame["step"]
    return frame
