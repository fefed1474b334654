"""Paired differences of the deciding metric: at the last steps, then at every equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soarbench.report.numbers.budgets import MatchedTable
from soarbench.report.numbers.estimates import Comparison
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.tables import TaskTable


@dataclass(frozen=True, kw_only=True)
class ForestPart:
    """The methods of a task against one baseline, at one place of their training.

    Attributes:
        table: Of the last steps, or of the same cost.
        matched: At which cost; None at the last steps.
        comparisons: By the deciding metric, in the order of the table's rows; without the base's.
        gaps: Methods that spent as much and were not measured there.
    """

    table: TaskTable
    matched: MatchedTable | None
    comparisons: tuple[Comparison, ...]
    gaps: tuple[str, ...]

    @property
    def is_decided(self) -> bool:
        """Whether it holds a comparison that its table was made to decide."""
        return any(one in self.table.family for one in self.comparisons)


def forest_parts(tables: Sequence[TaskTable], matched: Sequence[MatchedTable]) -> list[ForestPart]:
    """By task: the last steps first, then costs ascending; only where there is something to say."""
    parts = []
    for table in tables:
        own = [one for one in matched if one.table.task == table.task]
        parts += [_part(table, None), *(_part(one.table, one) for one in own)]
    return [part for part in parts if part.comparisons or part.gaps]


def _part(table: TaskTable, matched: MatchedTable | None) -> ForestPart:
    metric = table.final_metric
    rows = [row for row in table.rows if row.method != BASE]
    gaps = {} if matched is None else matched.gaps
    return ForestPart(
        table=table,
        matched=matched,
        comparisons=tuple(row.comparisons[metric] for row in rows if metric in row.comparisons),
        gaps=tuple(row.method for row in rows if metric in gaps.get(row.method, ())),
    )
