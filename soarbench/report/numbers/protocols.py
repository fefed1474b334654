"""In what two protocols differ, and which may not stand side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from soarbench.common.errors import StoreError
from soarbench.store.cells import Cell
from soarbench.store.facts import JUDGE
from soarbench.store.tables import Facts


def task_protocols(cells: Sequence[Cell]) -> dict[tuple[str, str, str], Facts]:
    """Protocols by (task, suite, evaluator), each of the first cell of the task that kept it."""
    protocols: dict[tuple[str, str, str], Facts] = {}
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        # Seeds of a method are judged alike, or were refused; a thousand files need not be read.
        if (cell.task, cell.method) in seen:
            continue
        seen.add((cell.task, cell.method))
        for (suite, evaluator), protocol in cell.protocols().items():
            protocols.setdefault((cell.task, suite, evaluator), protocol)
    return protocols


def differing(first: Facts, second: Facts) -> list[str]:
    """The fields in which two protocols differ, each with both values.

    Facts about the judge's number are left out: a title may change where no number does.
    """
    a, b = ({k: v for k, v in _flat(p) if not k.startswith(f"{JUDGE}.")} for p in (first, second))
    return [
        f"{key}: {_short(a.get(key))} against {_short(b.get(key))}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def refuse_unlike(cells: Sequence[Cell]) -> None:
    """Refuse cells of one task whose numbers were measured under different protocols.

    Says in which field, as far as the cells kept their protocols.

    Raises:
        StoreError: Two differ.
    """
    first: dict[tuple[str, str, str], tuple[Cell, Facts]] = {}
    base: list[tuple[Cell, Mapping[tuple[str, str], Facts]]] = []
    for cell in cells:
        protocols = cell.protocols()
        if cell.is_base:
            base.append((cell, protocols))
            continue
        for (suite, evaluator), protocol in protocols.items():
            other = first.setdefault((cell.task, suite, evaluator), (cell, protocol))
            _refuse_pair(evaluator, other, (cell, protocol))
    # Last, when all tasks are known: the base also judges suites that a task does not have.
    for cell, of_base in base:
        for (_, suite, evaluator), other in first.items():
            if (suite, evaluator) in of_base:
                _refuse_pair(evaluator, other, (cell, of_base[suite, evaluator]))


def _refuse_pair(evaluator: str, first: tuple[Cell, Facts], second: tuple[Cell, Facts]) -> None:
    fields = differing(first[1], second[1])
    if fields:
        raise StoreError(unlike_text(evaluator, first[0].cell_id, second[0].cell_id, fields))


def unlike_text(evaluator: str, first: str, second: str, fields: Sequence[str]) -> str:
    """Why two sets of scores cannot stand side by side, in one line."""
    return (
        f"{evaluator} of {first} and {second} was measured under different protocols, whose "
        f"numbers do not compare: {'; '.join(fields)}; score both alike"
    )


def _flat(protocol: Facts, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as dotted keys."""
    for key, value in protocol.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
