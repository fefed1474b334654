"""``leaderboard``: a static page of exported grids, of which none was measured otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from soarbench.common.errors import UserError
from soarbench.common.files import make_writable, write_atomically
from soarbench.common.progress import print_line
from soarbench.config.keys import Options


@dataclass(frozen=True, kw_only=True)
class LeaderboardOptions(Options):
    """What ``leaderboard`` takes.

    Attributes:
        exports: Folders that ``export`` wrote: of one grid, or of several.
        output: Of the page.
        title: Of the page.
    """

    example: ClassVar[str] = "leaderboard exports=[results/lab/standard]"
    settings: ClassVar[tuple[str, ...] | None] = ()
    exports: tuple[Path, ...]
    output: Path = Path("leaderboard.html")
    title: str = "Leaderboard"

    def __post_init__(self) -> None:
        if not self.exports:
            raise ValueError("exports=[]: name at least one folder that 'export' wrote")


def leaderboard(options: LeaderboardOptions, _: Sequence[str], *, console: Console) -> int:
    """Write the page, and say what it holds."""
    from soarbench.report.leaderboard import entries, leaderboard_html

    if options.output.is_dir():
        raise UserError(f"output={options.output} is a folder; name a file, e.g. leaderboard.html")
    # A page is made again without asking; anything else of that name is somebody's.
    if options.output.suffix != ".html":
        raise UserError(f"output={options.output} is no page; name it e.g. leaderboard.html")
    make_writable(options.output.parent, "output")
    found = entries(list(dict.fromkeys(path.expanduser().resolve() for path in options.exports)))
    text = leaderboard_html(found, options.title)
    write_atomically(options.output, lambda partial: partial.write_text(text))
    tasks = {table.task for entry in found for table in entry.tables}
    print_line(console, f"{options.output}: {len(found)} exported grids, {len(tasks)} tasks")
    return 0
