"""How benchmarks show numbers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence

from rich.table import Column, Table


def number_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Names in the first column, numbers in the others."""
    first, *others = heads
    table = Table(first, *(Column(head, justify="right") for head in others), title=title)
    for row in rows:
        table.add_row(*row)
    return table


def this_machine() -> str:
    """For a title: seconds mean nothing without it."""
    # Linux in a container often names no processor.
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
