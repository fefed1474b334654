"""Progress of a whole grid: what is being done, and the time that is left for all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

#: Until this share of the estimate is done, the estimate itself is believed.
_TRUSTED_SHARE = 0.02
SECONDS_BETWEEN_LINES = 15.0

Key = tuple[str, str]
"""A cell's id and the name of one of its stages."""


class GridProgress:
    """Counts estimated seconds that are done, and scales what is left by the speed so far.

    On a terminal it shows two bars; elsewhere (a log file) it prints a line now and then.

    Args:
        console: Where to.
        seconds: Estimated seconds of every stage that is to be done.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        console: Console,
        seconds: Mapping[Key, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.clock = clock
        self._left = dict(seconds)
        self._done = 0.0
        self._begun = self._last_line = clock()
        self._bars: Progress | None = None
        self._grid_bar = self._stage_bar = TaskID(0)
        self._description = ""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars while the block runs."""
        if not self.console.is_terminal:
            yield
            return
        bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self._grid_bar = bars.add_task("whole grid", total=None, note="")
        self._stage_bar = bars.add_task("", total=None, note="")
        self._bars = bars
        with bars:
            yield
        self._bars = None

    def remaining(self) -> float:
        """Seconds that are left for the whole grid."""
        left = sum(self._left.values())
        if self._done <= _TRUSTED_SHARE * (left + self._done):
            return left
        return left * (self.clock() - self._begun) / self._done

    @contextmanager
    def stage(self, key: Key, description: str, total: int) -> Iterator[Stage]:
        """One stage of ``total`` equal parts; when the block ends well, all of them are done."""
        self._description = description
        if self._bars is not None:
            self._bars.reset(self._stage_bar, total=total, description=description, note="")
        self._show(f"0/{total}", force=True)
        running = Stage(self, key, self._left.get(key, 0.0), total)
        yield running
        running.reach(total)

    def forget_cell(self, cell_id: str) -> None:
        """Nothing more of a cell will be done."""
        for key in [key for key in self._left if key[0] == cell_id]:
            del self._left[key]

    def count(self, key: Key, seconds: float, *, was_done: bool) -> None:
        """Estimated seconds that are no longer left, because they were worked or not needed."""
        self._left[key] = max(self._left.get(key, 0.0) - seconds, 0.0)
        if was_done:
            self._done += seconds

    def show(self, position: int, total: int, note: str) -> None:
        """Say how far the running stage is."""
        text = f"{position}/{total} {note}".rstrip()
        if self._bars is not None:
            self._bars.update(self._stage_bar, completed=position, note=text)
        self._show(text)

    def _show(self, text: str, *, force: bool = False) -> None:
        left = str(timedelta(seconds=round(self.remaining())))
        total = self._done + sum(self._left.values())
        if self._bars is not None:
            self._bars.update(
                self._grid_bar, total=total, completed=self._done, note=f"{left} left"
            )
            return
        now = self.clock()
        if force or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            share = 100 * self._done / total if total else 100.0
            line = f"[{share:3.0f}%, {left} left] {self._description} {text}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class Stage:
    """A running stage; told how far it is, in parts."""

    def __init__(self, grid: GridProgress, key: Key, seconds: float, total: int) -> None:
        self._grid = grid
        self._key = key
        self._seconds_per_part = seconds / max(total, 1)
        self._total = total
        self._position = 0

    def reach(self, position: int, note: str = "", *, was_done: bool = True) -> None:
        """The first ``position`` parts are over; ``was_done`` is false for those found done."""
        seconds = self._seconds_per_part * (position - self._position)
        self._position = position
        self._grid.count(self._key, seconds, was_done=was_done)
        self._grid.show(position, self._total, note)

    def advance(self, count: int = 1) -> None:
        """``count`` more parts are done."""
        self.reach(self._position + count)

    def skip(self, count: int = 1) -> None:
        """``count`` more parts were done by an earlier launch."""
        self.reach(self._position + count, was_done=False)


class ImageLines:
    """Prints how many images are done, and how fast, now and then.

    Args:
        console: Where to; a terminal gets a line a second.
        what: Is being done, e.g. the name of a judge.
        total: Images in all.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        console: Console,
        what: str,
        total: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._what, self._total, self._clock = console, what, total, clock
        self._found = self._made = 0
        self._begun = self._last = clock()

    def skip(self, count: int = 1) -> None:
        """``count`` more images were done by an earlier launch; they count for no speed."""
        self._found += count

    def advance(self, count: int = 1) -> None:
        """``count`` more images are done."""
        self._made += count
        now, done = self._clock(), self._found + self._made
        pause = 1.0 if self._console.is_terminal else SECONDS_BETWEEN_LINES
        if now - self._last < pause and done < self._total:
            return
        self._last = now
        speed = self._made / max(now - self._begun, 1e-9)
        left = (self._total - done) / max(speed, 1e-9)
        self._console.print(
            f"{self._what}: {done}/{self._total} images, {speed:.1f} images/s, {left:.0f} s left",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
