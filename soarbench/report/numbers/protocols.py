"""What stands behind a fingerprint, and in what two of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from soarbench.common.files import read_json
from soarbench.store.cells import Cell, StoreError

#: All protocols of a cell in one file, as ``export`` leaves them.
PROTOCOLS_FILE = "protocols.json"
Protocol = Mapping[str, object]


def cell_protocols(folder: Path) -> dict[tuple[str, str], Protocol]:
    """The protocols of a cell by (suite, evaluator); empty where they were not kept.

    Args:
        folder: Of the cell.
    """
    packed = folder / PROTOCOLS_FILE
    if packed.is_file():
        stored = read_json(packed)
        return {_names(key): _protocol(value) for key, value in stored.items()}
    found: dict[tuple[str, str], Protocol] = {}
    for step in sorted((folder / "scores").glob("step-*"))[:1]:
        for path in sorted(step.glob("*.json")):
            found[_names(path.stem)] = _protocol(read_json(path).get("protocol"))
    return found


def packed_protocols(protocols: Mapping[tuple[str, str], Protocol]) -> dict[str, object]:
    """The content of ``PROTOCOLS_FILE``."""
    return {".".join(names): dict(protocol) for names, protocol in protocols.items()}


def _names(key: str) -> tuple[str, str]:
    suite, _, evaluator = key.rpartition(".")
    return suite, evaluator


def _protocol(value: object) -> Protocol:
    return value if isinstance(value, dict) else {}


def task_protocols(cells: Sequence[Cell]) -> dict[tuple[str, str, str], Protocol]:
    """Protocols by (task, suite, evaluator), each of the first cell of the task that kept it."""
    found: dict[tuple[str, str, str], Protocol] = {}
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        if (cell.task, cell.method) in seen:
            continue
        seen.add((cell.task, cell.method))
        for (suite, evaluator), protocol in cell_protocols(cell.folder).items():
            found.setdefault((cell.task, suite, evaluator), protocol)
    return found


def differing(first: Protocol, second: Protocol) -> list[str]:
    """The fields in which two protocols differ, each with both values."""
    told = []
    left, right = dict(_flat(first)), dict(_flat(second))
    for key in sorted(left.keys() | right.keys()):
        if left.get(key) != right.get(key):
            told.append(f"{key}: {_short(left.get(key))} against {_short(right.get(key))}")
    return told


def refuse_unlike(cells: Sequence[Cell]) -> None:
    """Refuse cells of one task whose numbers were measured under different protocols.

    Says in which field, as far as the cells kept their protocols.

    Raises:
        StoreError: Two differ.
    """
    first: dict[tuple[str, str, str], tuple[Cell, Protocol]] = {}
    base: list[tuple[Cell, Mapping[tuple[str, str], Protocol]]] = []
    for cell in cells:
        found = cell_protocols(cell.folder)
        if cell.is_base:
            base.append((cell, found))
            continue
        for (suite, evaluator), protocol in found.items():
            other = first.setdefault((cell.task, suite, evaluator), (cell, protocol))
            _refuse_pair(evaluator, other, (cell, protocol))
    for cell, of_base in base:
        for (_, suite, evaluator), other in first.items():
            if (suite, evaluator) in of_base:
                _refuse_pair(evaluator, other, (cell, of_base[suite, evaluator]))


def _refuse_pair(
    evaluator: str, first: tuple[Cell, Protocol], second: tuple[Cell, Protocol]
) -> None:
    told = differing(first[1], second[1])
    if told:
        raise StoreError(unlike_text(evaluator, first[0].cell_id, second[0].cell_id, told))


def unlike_text(evaluator: str, first: str, second: str, told: Sequence[str]) -> str:
    """Why two sets of scores cannot stand side by side, in one line."""
    return (
        f"{evaluator} of {first} and {second} was measured under different protocols, whose "
        f"numbers do not compare: {'; '.join(told)}; score both alike"
    )


def _flat(protocol: Protocol, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as dotted keys."""
    for key, value in protocol.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
