"""One cell after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from soarbench.config.settings import CellConfig

Work = Callable[[CellConfig], None]
"""Brings one cell to its end, or raises."""

Outcome = tuple[CellConfig, Exception | None]
"""A cell that ended, and what it failed with."""


class LocalLauncher:
    """Shares loaded judges and data between cells, and needs nothing but this process."""

    def launch(self, cells: Sequence[CellConfig], work: Work) -> Iterator[Outcome]:
        """Run all cells in order and yield each when it has ended."""
        for cell in cells:
            failure: Exception | None = None
            try:
                work(cell)
            # Whatever goes wrong in one cell (out of memory, a user's reward, a diverged loss), the
            # others are still worth running; the reason is recorded with the cell.
            except Exception as error:  # noqa: BLE001
                failure = error
            yield cell, failure
