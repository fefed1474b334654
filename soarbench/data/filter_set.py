"""``data filter``: the part of a scored set that reaches thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from soarbench.common.errors import UserError
from soarbench.common.files import make_writable, write_atomically
from soarbench.data.records import checked_scores
from soarbench.data.select import first_below
from soarbench.data.sources.jsonl import line_of, read_lines


def filter_set(
    source: Path, output: Path, thresholds: Mapping[str, float], console: Console
) -> int:
    """Keep the rows whose scores reach the thresholds; ``UserError`` where that cannot be done."""
    if not source.is_file():
        raise UserError(f"input={source}: no such file")
    if output.exists():
        raise UserError(f"output={output} exists already; choose another output")
    make_writable(output.parent, "output")
    total = kept = 0

    def write(partial: Path) -> None:
        nonlocal total, kept
        # Row by row, since a scored set may be larger than memory.
        with partial.open("w", encoding="utf-8") as stream:
            for place, row in read_lines(source):
                total += 1
                if _reaches(row, thresholds, place):
                    kept += 1
                    stream.write(line_of(row))
        if not kept:
            reached = ", ".join(f"{name}>={value:g}" for name, value in thresholds.items())
            raise UserError(f"input={source}: none of {total} rows reach {reached}; lower it")

    write_atomically(output, write)
    folder = source.absolute().parent
    # Images are looked for beside the file, unless the set was used with another folder.
    hint = f"; train on it with data.image_dir={folder}, or with the input's own data.image_dir"
    moved = "" if folder == output.absolute().parent else hint
    said = f"kept {kept} of {total} rows: {output}{moved}"
    console.print(said, highlight=False, markup=False, soft_wrap=True)
    return 0


def _reaches(row: Mapping[str, object], thresholds: Mapping[str, float], place: str) -> bool:
    stored = row.get("scores")
    missing = [n for n in thresholds if not isinstance(stored, Mapping) or n not in stored]
    if missing:
        raise UserError(
            f"{place}: no score {missing[0]!r}; add it with `data score judge={missing[0]}`"
        )
    scores = checked_scores(stored, place)
    # A score that is null could not be measured, and is below every threshold.
    return thresholds.keys() <= scores.keys() and first_below(scores, thresholds) is None
