"""``data filter``: the part of a scored set that reaches thresholds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console

from soarbench.common.errors import UserError
from soarbench.common.files import make_writable
from soarbench.data.records import checked_scores
from soarbench.data.select import first_below
from soarbench.data.sources.jsonl import read_lines

Row = Mapping[str, object]


def filter_set(
    source: Path, output: Path, thresholds: Mapping[str, float], console: Console
) -> int:
    """Keep the rows whose scores reach the thresholds.

    Raises:
        UserError: The file cannot be read, a row lacks a score, or nothing is left.
    """
    if not source.is_file():
        raise UserError(f"input={source}: no such file")
    if output.exists():
        raise UserError(f"output={output} exists already; choose another output")
    make_writable(output.parent, "output")
    partial = output.with_name(f"{output.name}.partial")
    total = kept = 0
    with partial.open("w", encoding="utf-8") as stream:
        for text in _kept(read_lines(source), thresholds):
            total += 1
            if text is not None:
                kept += 1
                stream.write(f"{text}\n")
    if not kept:
        partial.unlink()
        reached = ", ".join(f"{name}>={value:g}" for name, value in thresholds.items())
        raise UserError(f"input={source}: none of {total} rows reach {reached}; lower it")
    partial.replace(output)
    console.print(f"kept {kept} of {total} rows: {output}", highlight=False, soft_wrap=True)
    return 0


def _kept(rows: Iterable[tuple[str, Row]], thresholds: Mapping[str, float]) -> Iterator[str | None]:
    """Every row as text, or None where it is left out."""
    for place, row in rows:
        stored = row.get("scores")
        missing = [n for n in thresholds if not isinstance(stored, Mapping) or n not in stored]
        if missing:
            raise UserError(
                f"{place}: no score {missing[0]!r}; add it with `data score judge={missing[0]}`"
            )
        scores = checked_scores(stored, place)
        # A score that is null could not be measured, and is below every threshold.
        is_kept = thresholds.keys() <= scores.keys() and first_below(scores, thresholds) is None
        yield json.dumps(row, ensure_ascii=False) if is_kept else None
