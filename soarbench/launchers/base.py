"""What a launcher is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from soarbench.config import CellConfig

Work = Callable[[CellConfig], None]
"""Brings one cell to its end, or raises."""

Outcome = tuple[CellConfig, Exception | None]
"""A cell that ended, and what it failed with."""


class Launcher(Protocol):
    """Runs cells; one that fails does not take the others with it."""

    def launch(self, cells: Sequence[CellConfig], work: Work) -> Iterator[Outcome]:
        """Run all cells and yield each when it has ended."""
        ...
