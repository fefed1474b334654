"""``python tests/fake_grid.py DELAY WORDS``: ``soarbench run`` without models."""

from __future__ import annotations

import sys

from rich.console import Console

from soarbench.cli.run import run_whole
from soarbench.grid.expand import Grid, expand
from tests.fakes import FakeWorkbench


class Make:
    """Makes a workbench, also in a worker's process."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def __call__(self, grid: Grid) -> FakeWorkbench:
        return FakeWorkbench(delay=self.delay).at(grid.store)


if __name__ == "__main__":
    delay, *words = sys.argv[1:]
    sys.exit(run_whole(expand(words), console=Console(), make_workbench=Make(float(delay))))
