"""The forest plot as rows of a page: its intervals in percent of the width of a task's axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soarbench.report.numbers.estimates import Comparison
from soarbench.report.numbers.forest import ForestPart
from soarbench.report.numbers.tables import finding
from soarbench.report.page.tables import MARKS
from soarbench.report.text.frames import number_text
from soarbench.report.text.headline import heading, headline

#: Room beside the longest interval, as a share of the axis.
_MARGIN = 0.06


@dataclass(frozen=True, kw_only=True)
class PlotRow:
    """A method's difference, in percent of the axis; None where it was not measured."""

    name: str
    verdict: str
    mark: str
    text: str
    finding: str
    places: tuple[float, float, float] | None


@dataclass(frozen=True, kw_only=True)
class PlotPart:
    """The rows of one place."""

    title: str
    rows: tuple[PlotRow, ...]


@dataclass(frozen=True, kw_only=True)
class TaskPlot:
    """A task's headline and forest plot.

    Attributes:
        zero: Where no difference is, in percent.
        sides: What the left and the right of it mean.
    """

    task: str
    headline: str
    parts: tuple[PlotPart, ...]
    zero: float
    sides: tuple[str, str]


def task_plot(task: str, parts: Sequence[ForestPart]) -> TaskPlot:
    """The plot of one task's parts."""
    own = [part for part in parts if part.table.task == task]
    intervals = [one.difference for part in own for one in part.comparisons]
    low = min([0.0, *(one.low for one in intervals)])
    high = max([0.0, *(one.high for one in intervals)])
    axis = _Axis(low - _MARGIN * (high - low), high + _MARGIN * (high - low))
    signs = {one.facts.sign for part in own for one in part.comparisons}
    return TaskPlot(
        task=task,
        headline=headline(own),
        parts=tuple(_part(part, axis) for part in own),
        zero=axis.place(0.0),
        sides=("better", "worse") if min(signs, default=1) < 0 else ("worse", "better"),
    )


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def place(self, value: float) -> float:
        width = self.high - self.low
        return round(100 * (value - self.low) / width, 2) if width else 50.0


def _part(part: ForestPart, axis: _Axis) -> PlotPart:
    rows = [_row(one, part, axis) for one in part.comparisons]
    for method in part.gaps:
        name, verdict = part.table.title(method), "not measured"
        text = f"{name}: {verdict}"
        rows.append(
            PlotRow(name=name, verdict=verdict, mark="", text="", finding=text, places=None)
        )
    return PlotPart(title=heading(part), rows=tuple(rows))


def _row(one: Comparison, part: ForestPart, axis: _Axis) -> PlotRow:
    interval = one.difference
    low, middle, high = (axis.place(n) for n in (interval.low, interval.estimate, interval.high))
    return PlotRow(
        name=part.table.title(one.method),
        verdict=str(one.verdict),
        mark=MARKS.get(str(one.verdict), ""),
        text=number_text(interval, one.facts.decimals, sign="+"),
        finding=finding(one, part.table.titles),
        places=(low, middle, high),
    )
