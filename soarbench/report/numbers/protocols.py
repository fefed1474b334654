"""In what two protocols differ, and which may not stand side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence

from soarbench.common.errors import StoreError
from soarbench.report.numbers.settings import flat, refuse_unlike_seeds
from soarbench.store.cells import Cell
from soarbench.store.facts import JUDGE
from soarbench.store.tables import Facts

#: Task, suite and evaluator.
Judged = tuple[str, str, str]


def task_protocols(cells: Sequence[Cell]) -> dict[Judged, Facts]:
    """Protocols by (task, suite, evaluator), each of the first cell of the task that kept it."""
    protocols: dict[Judged, Facts] = {}
    # Seeds of a method are judged alike, or were refused; a thousand files need not be read.
    firsts: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        firsts.setdefault((cell.task, cell.method), cell)
    for cell in firsts.values():
        for (suite, evaluator), protocol in cell.protocols().items():
            protocols.setdefault((cell.task, suite, evaluator), protocol)
    return protocols


def differing(first: Facts, second: Facts) -> list[str]:
    """The fields in which two protocols differ, each with both values."""
    # Without the facts about the judge's number: a title may change where no number does.
    a, b = ({k: v for k, v in flat(p) if not k.startswith(f"{JUDGE}.")} for p in (first, second))
    return [
        f"{key}: {_short(a.get(key))} against {_short(b.get(key))}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def refuse_unlike(cells: Sequence[Cell]) -> None:
    """``StoreError`` where cells of one task were measured, or seeds of a method trained, unlike.

    It names the fields.
    """
    refuse_unlike_seeds(cells)
    first: dict[Judged, tuple[str, Facts]] = {}
    evaluated = {cell.cell_id for cell in cells if cell.is_evaluated_only}
    # Trained cells first, with which all others are compared; the base last, when all tasks are
    # known: it also judges suites that a task does not have.
    for cell in sorted(cells, key=lambda one: (one.is_base, one.is_evaluated_only)):
        protocols = cell.protocols()
        if not cell.is_base:
            for (suite, evaluator), protocol in protocols.items():
                first.setdefault((cell.task, suite, evaluator), (cell.cell_id, protocol))
        for (task, suite, evaluator), (other, before) in first.items():
            if (task == cell.task or cell.is_base) and (suite, evaluator) in protocols:
                fields = differing(before, protocols[suite, evaluator])
                if cell.is_evaluated_only or other in evaluated:
                    # Published weights are drawn as their authors draw them; the title says so.
                    fields = [text for text in fields if not text.startswith("guidance_scale:")]
                if fields:
                    raise StoreError(unlike_text(evaluator, other, cell.cell_id, fields))


def unlike_text(evaluator: str, first: str, second: str, fields: Sequence[str]) -> str:
    """Why two sets of scores cannot stand side by side, in one line."""
    return (
        f"{evaluator} of {first} and {second} was measured under different protocols, whose "
        f"numbers do not compare: {'; '.join(fields)}; score both alike"
    )


def _short(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
