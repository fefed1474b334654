"""A finished report, from which page, Markdown, LaTeX and console are printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.diversity import Diversity
from soarbench.report.numbers.exposure import ExposurePoint
from soarbench.report.numbers.forest import ForestPart
from soarbench.report.numbers.gaming import Gaming
from soarbench.report.numbers.robustness import RobustnessPoint
from soarbench.report.numbers.samples import Samples
from soarbench.report.numbers.tables import TaskTable
from soarbench.report.numbers.thresholds import Crossing
from soarbench.report.numbers.tuning import Choice
from soarbench.store.cells import Cell


@dataclass(frozen=True, kw_only=True)
class FigureEntry:
    """One figure in the index: pictures, and the CSV behind them."""

    name: str
    title: str
    caption: str
    files: tuple[str, ...]
    data: str


@dataclass(frozen=True, kw_only=True)
class FigureSet:
    """All figures of a report, and what could not be drawn, a line each."""

    entries: tuple[FigureEntry, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished report, of which everything is printed.

    Attributes:
        matched: The methods at equal cost.
        forest: Paired differences by the deciding metric, by task and place.
        crossings: What each needs to reach a value.
        choices: What a grid of trials chooses; empty for any other.
        exposure: Measures of exposure bias.
        robustness: Scores by other samplers.
        gaming: Learned scores against what they stand for.
        diversity: Of the images of a prompt, by task.
        measured: Measured rows under the columns of the paper's table, None where it has none.
        published: Rows of the paper, None where it has none for this grid.
        gaps: What is missing, a line each.
        cautions: What a reader must know before any number, a line each.
        notes: What was left out, a line each.
    """

    grid: str
    folder: Path
    cells: tuple[Cell, ...]
    tables: tuple[TaskTable, ...]
    matched: tuple[MatchedTable, ...]
    forest: tuple[ForestPart, ...]
    crossings: tuple[Crossing, ...]
    choices: tuple[Choice, ...]
    exposure: tuple[ExposurePoint, ...]
    robustness: tuple[RobustnessPoint, ...]
    gaming: tuple[Gaming, ...]
    diversity: tuple[Diversity, ...]
    samples: tuple[Samples, ...]
    measured: pd.DataFrame | None
    published: pd.DataFrame | None
    gaps: tuple[str, ...]
    cautions: tuple[str, ...]
    figures: FigureSet
    notes: tuple[str, ...]
