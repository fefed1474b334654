"""What a GenEval prompt asks for: the published metadata, read into types and checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluators.geneval.prompts import RELATIONS


class MetadataError(ValueError):
    """Metadata that GenEval cannot judge; the message names the value and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One demand: so many objects of a class, all of a colour and in relation to a target.

    An ``exclude`` counts what is too many; ``target`` is an index of an earlier ``include``.
    """

    label: str
    count: int
    color: str | None = None
    relation: str | None = None
    target: int | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """All demands of a prompt: every ``include`` clause holds and no ``exclude`` clause does."""

    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]


def parse_request(metadata: Mapping[str, object]) -> Request:
    """Read a prompt's metadata; ``MetadataError`` where a part is missing or impossible.

    Its ``tag`` is the task, ``include`` and ``exclude`` are lists of ``{"class", "count", "color"?,
    "position"?: [relation, index]}``, where None counts as absent.
    """
    tag = metadata.get("tag")
    if not isinstance(tag, str) or not tag:
        raise MetadataError(f"tag is {tag!r}; it must name the task, e.g. 'counting'")
    include = [_clause(item, i) for i, item in enumerate(_items(metadata, "include"))]
    exclude = [_clause(item, 0) for item in _items(metadata, "exclude")]
    return Request(tag=tag, include=tuple(include), exclude=tuple(exclude))


def _items(metadata: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    value = metadata.get(key)
    if value is None:
        return []
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = [item for item in value if isinstance(item, Mapping)]
        if len(items) == len(value):
            return items
    raise MetadataError(f"{key} is {value!r}; it must be a list of objects with class and count")


def _clause(item: Mapping[str, object], index: int) -> Clause:
    label, count, color = item.get("class"), item.get("count"), item.get("color")
    if not isinstance(label, str) or not label:
        raise MetadataError(f"class is {label!r} in {dict(item)}; it must be a class name")
    # True is an int to Python.
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise MetadataError(f"count is {count!r} for {label!r}; it must be a whole number from 1")
    if color is not None and not isinstance(color, str):
        raise MetadataError(f"color is {color!r} for {label!r}; it must be a colour name")
    relation, target = _position(item.get("position"), index)
    return Clause(label=label, count=count, color=color, relation=relation, target=target)


def _position(value: object, index: int) -> tuple[str | None, int | None]:
    """Relation and target of a clause."""
    if value is None:
        return None, None
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        relation, target = value
        # Only to an earlier one: clauses are judged in their order.
        if relation in RELATIONS and isinstance(target, int) and 0 <= target < index:
            return relation, target
    raise MetadataError(
        f"position is {value!r}; it must be [relation, index of an earlier include clause] with a "
        f"relation among {', '.join(RELATIONS)}"
    )


def check_vocabulary(
    request: Request, class_names: Sequence[str], color_names: Sequence[str]
) -> None:
    """Refuse (``MetadataError``, with the nearest known ones) an unknown class or colour."""
    # A class that the detector lacks would only ever be "not found", a 0 that nobody questions.
    for clause in (*request.include, *request.exclude):
        _check_known("class", clause.label, class_names)
        if clause.color is not None:
            _check_known("color", clause.color, color_names)


def _check_known(kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise MetadataError(f"unknown {kind} {name!r} in the metadata; {hint}")
