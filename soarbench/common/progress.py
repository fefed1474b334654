"""How far long work is: lines now and then, and the time that is left for a whole grid."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

#: Until this share of the estimate is done, the estimate itself is believed: the first parts are
#: the slowest, and would be taken for all.
_TRUSTED_SHARE = 0.02
SECONDS_BETWEEN_LINES = 15.0
#: An address and the kind of job that makes it.
Key = tuple[str, str]


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is."""
    # A path in brackets is no markup, and a command that is cut in two cannot be copied.
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


class GridProgress:
    """Counts estimated seconds that are done, and scales what is left by the speed so far.

    On a terminal it shows two bars; elsewhere (a log file) it prints a line now and then.
    """

    def __init__(
        self,
        console: Console,
        seconds: Mapping[Key, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.clock = console, clock
        self._left, self._done = dict(seconds), 0.0
        self._begun = self._last_line = clock()
        self._bars: Progress | None = None
        self._grid_bar = self._stage_bar = TaskID(0)
        self._description = ""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars while the block runs."""
        # Into a log file rich would draw the bars once, at the end.
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
        remaining = sum(self._left.values())
        if self._done <= _TRUSTED_SHARE * (remaining + self._done):
            return remaining
        return remaining * (self.clock() - self._begun) / self._done

    @contextmanager
    def stage(self, key: Key, description: str, total: int) -> Iterator[Stage]:
        """One stage of ``total`` equal parts; when the block ends well, all of them are done."""
        self._description = description
        if self._bars is not None:
            self._bars.reset(self._stage_bar, total=total, description=description, note="")
        self._show(f"0/{total}", force=True)
        running = Stage(self, key, self._left.get(key, 0.0) / max(total, 1), total)
        yield running
        # Not where it failed: what is left of it is done by the next launch.
        running.reach(total)

    def forget(self, key: Key) -> None:
        """Nothing more of a job will be done."""
        self._left.pop(key, None)

    def reached(self, stage: Stage, seconds: float, note: str, *, was_done: bool) -> None:
        """Estimated seconds of a stage are no longer left: they were worked, or not needed."""
        self._left[stage.key] = max(self._left.get(stage.key, 0.0) - seconds, 0.0)
        # What an earlier launch did took no time now, and would make the speed look infinite.
        if was_done:
            self._done += seconds
        text = f"{stage.position}/{stage.total} {note}".rstrip()
        if self._bars is not None:
            self._bars.update(self._stage_bar, completed=stage.position, note=text)
        self._show(text)

    def _show(self, text: str, *, force: bool = False) -> None:
        remaining = f"{timedelta(seconds=round(self.remaining()))} left"
        total = self._done + sum(self._left.values())
        if self._bars is not None:
            self._bars.update(self._grid_bar, total=total, completed=self._done, note=remaining)
            return
        now = self.clock()
        if force or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            share = 100 * self._done / total if total else 100.0
            line = f"[{share:3.0f}%, {remaining}] {self._description} {text}"
            print_line(self.console, line)


@dataclass
class Stage:
    """A running stage of ``total`` equal parts; told how far it is."""

    grid: GridProgress
    key: Key
    seconds_per_part: float
    total: int
    position: int = 0

    def reach(self, position: int, note: str = "", *, was_done: bool = True) -> None:
        """The first ``position`` parts are over; ``was_done`` is false for those found done."""
        seconds = self.seconds_per_part * (position - self.position)
        self.position = position
        self.grid.reached(self, seconds, note, was_done=was_done)

    def advance(self, count: int = 1) -> None:
        """``count`` more parts are done."""
        self.reach(self.position + count)

    def skip(self, count: int = 1) -> None:
        """``count`` more parts were done by an earlier launch."""
        self.reach(self.position + count, was_done=False)


@dataclass
class Pace:
    """Counts what is done of long work, and says it now and then and at the end."""

    what: str  # with its unit: encoded images
    total: int | None  # None where nobody knows
    say: Callable[[str], object]
    _: KW_ONLY
    every: float = SECONDS_BETWEEN_LINES
    clock: Callable[[], float] = time.monotonic
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._skipped = 0
        self._begun = self._last = self.clock()

    def skip(self, count: int = 1) -> None:
        """``count`` more were done by an earlier launch; they count for no speed."""
        self.done += count
        self._skipped += count

    def advance(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.done += count
        if self.clock() - self._last >= self.every:
            self._line()

    def finish(self) -> None:
        """Say the end, if anything was said before: short work needs no line."""
        if self._last > self._begun:
            self._line()

    def _line(self) -> None:
        self._last = self.clock()
        speed = (self.done - self._skipped) / max(self._last - self._begun, 1e-9)
        text = f"{self.what}: {self.done}"
        if self.total is not None:
            text += f" of {self.total}"
        text += f", {speed:.1f} a second"
        if self.total is not None and speed:
            text += f", {(self.total - self.done) / speed:.0f} s to go"
        self.say(text)


def console_pace(console: Console, what: str, total: int) -> Pace:
    """A pace that is printed: every second on a terminal, seldom into a log file."""
    every = 1.0 if console.is_terminal else SECONDS_BETWEEN_LINES
    return Pace(what, total, functools.partial(print_line, console), every=every)
