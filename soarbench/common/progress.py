"""How far long work is: lines now and then, and the time that is left for a whole grid."""

from __future__ import annotations

import abc
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta

from rich import progress as rich_progress
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from typing_extensions import override

#: Until this share of the estimate is done, the estimate itself is believed: the first parts are
#: the slowest, and would be taken for all.
_TRUSTED_SHARE = 0.02
SECONDS_BETWEEN_LINES = 15.0
#: Between messages of a worker, and between two looks that ``status`` can take.
SECONDS_BETWEEN_UPDATES = 1.0
#: Running jobs that a line names.
_MOST_SHOWN = 3
#: An address and the kind of job that makes it.
Key = tuple[str, str]


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is."""
    # A path in brackets is no markup, and a command that is cut in two cannot be copied.
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Update:
    """How far a job is that runs in another process."""

    key: Key
    description: str
    total: int
    position: int
    skipped: int
    note: str = ""


class Progress(abc.ABC):
    """Told how far jobs are."""

    @abc.abstractmethod
    def begin(self, key: Key, description: str, total: int) -> Stage:
        """A job of ``total`` equal parts begins."""

    @abc.abstractmethod
    def reached(self, stage: Stage, parts: int, note: str, *, was_done: bool) -> None:
        """So many more parts are over; ``was_done`` is false for those found done."""

    @abc.abstractmethod
    def end(self, key: Key) -> None:
        """A job ended, well or not."""

    def forget(self, key: Key) -> None:
        """Nothing more of a job will be done."""
        self.end(key)

    @abc.abstractmethod
    def alive(self) -> None:
        """Work goes on, though no part of it is over."""

    @abc.abstractmethod
    def wait(self, key: Key, description: str) -> None:
        """A job waits for another launch; to be said again and again until it begins."""

    @contextmanager
    def stage(self, key: Key, description: str, total: int) -> Iterator[Stage]:
        """A job of ``total`` equal parts; when the block ends well, all of them are done."""
        stage = self.begin(key, description, total)
        try:
            yield stage
            # Not where it failed: what is left of it is done by the next launch.
            stage.reach(total)
        finally:
            self.end(key)


class SentProgress(Progress):
    """Sends on how far the jobs of this process are, now and then."""

    def __init__(
        self, send: Callable[[Update], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._last, self._skipped = -math.inf, 0
        self._told: Update | None = None

    @override
    def begin(self, key: Key, description: str, total: int) -> Stage:
        self._skipped = 0
        stage = Stage(self, key, description, total)
        self._tell(stage, "")
        return stage

    @override
    def reached(self, stage: Stage, parts: int, note: str, *, was_done: bool) -> None:
        if not was_done:
            self._skipped += parts
        # The last part always: others wait for the step that it stands for.
        if stage.position == stage.total or self._clock() - self._last >= SECONDS_BETWEEN_UPDATES:
            self._tell(stage, note)

    def _tell(self, stage: Stage, note: str) -> None:
        self._last = self._clock()
        update = Update(
            key=stage.key, description=stage.description, total=stage.total,
            position=stage.position, skipped=self._skipped, note=note,
        )  # fmt: skip
        self._told = update
        self._send(update)

    @override
    def alive(self) -> None:
        if self._told is not None and self._clock() - self._last >= SECONDS_BETWEEN_UPDATES:
            self._last = self._clock()
            self._send(self._told)

    @override
    def wait(self, key: Key, description: str) -> None:
        if self._told is None or (self._told.key, self._told.description) != (key, description):
            self.begin(key, description, 1)
        self.alive()

    @override
    def end(self, key: Key) -> None:
        # The process that follows learns it from the job's outcome.
        pass


class GridProgress(Progress):
    """Counts estimated seconds that are done, and scales what is left by the speed so far.

    On a terminal it shows bars; elsewhere (a log file) it prints a line now and then. Jobs of
    several processes are shown together.
    """

    def __init__(
        self,
        console: Console,
        seconds: Mapping[Key, float],
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[Mapping[str, object]], object] | None = None,
    ) -> None:
        self.console, self.clock, self._keep = console, clock, keep
        self._left, self._done = dict(seconds), 0.0
        self._begun = self._last_line = self._last_kept = clock()
        self._running: dict[Key, tuple[Stage, float]] = {}
        self._notes: dict[Key, str] = {}
        self._bars: rich_progress.Progress | None = None
        self._grid_bar, self._stage_bars = TaskID(0), dict[Key, TaskID]()
        self._num_images = 0
        # The jobs that the grid's own process does are done in a thread.
        self._lock = threading.RLock()
        #: Facts of who works, for example "7 of 8 GPUs busy".
        self.facts = ""

    def estimate(self, seconds: Mapping[Key, float]) -> None:
        """What is left are these jobs, after all."""
        self._left = dict(seconds)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars while the block runs."""
        # Into a log file rich would draw the bars once, at the end.
        if not self.console.is_terminal:
            yield
            return
        bars = rich_progress.Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self._grid_bar = bars.add_task("whole grid", total=None, note="")
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

    @override
    def begin(self, key: Key, description: str, total: int) -> Stage:
        with self._lock:
            stage = Stage(self, key, description, total)
            self._running[key] = stage, self._left.get(key, 0.0) / max(total, 1)
            if self._bars is not None:
                if key in self._stage_bars:
                    self._bars.remove_task(self._stage_bars.pop(key))
                self._stage_bars[key] = self._bars.add_task(description, total=total, note="")
            self._show(force=True)
            return stage

    def follow(self, update: Update) -> None:
        """Show a job of another process."""
        stage, _ = self._running.get(update.key) or (None, 0.0)
        # Waiting for another launch has another description than the work itself.
        is_other = stage is not None and update.description != stage.description
        if stage is None or is_other or update.position < stage.position:
            stage = self.begin(update.key, update.description, update.total)
        skipped = min(update.skipped, update.position)
        if skipped > stage.position:
            stage.reach(skipped, update.note, was_done=False)
        stage.reach(update.position, update.note)

    @override
    def end(self, key: Key) -> None:
        with self._lock:
            self._running.pop(key, None)
            self._notes.pop(key, None)
            if self._bars is not None and key in self._stage_bars:
                self._bars.remove_task(self._stage_bars.pop(key))

    @override
    def forget(self, key: Key) -> None:
        self.end(key)
        self._left.pop(key, None)

    @override
    def alive(self) -> None:
        self.tick()

    @override
    def wait(self, key: Key, description: str) -> None:
        if key not in self._running:
            self.begin(key, description, 1)
        self.alive()

    @override
    def reached(self, stage: Stage, parts: int, note: str, *, was_done: bool) -> None:
        with self._lock:
            seconds = self._running[stage.key][1] * parts
            self._left[stage.key] = max(self._left.get(stage.key, 0.0) - seconds, 0.0)
            # What an earlier launch did took no time now, and would make the speed look infinite.
            if was_done:
                self._done += seconds
                self._num_images += parts if stage.key[1].startswith("draw") else 0
            self._notes[stage.key] = f"{stage.position}/{stage.total} {note}".rstrip()
            if self._bars is not None and stage.key in self._stage_bars:
                bar, text = self._stage_bars[stage.key], self._notes[stage.key]
                self._bars.update(bar, completed=stage.position, note=text)
            self._show()

    def tick(self) -> None:
        """Time goes by: whoever reads should see that the grid lives."""
        with self._lock:
            self._show()

    def report(self) -> dict[str, object]:
        """What ``status`` shows of a grid that runs."""
        elapsed = max(self.clock() - self._begun, 1e-9)
        return {
            "share": self._share(),
            "seconds_left": self.remaining(),
            "images_per_second": self._num_images / elapsed,
            "facts": self.facts,
            "running": [f"{s.description} {self._note(s)}" for s, _ in self._running.values()],
        }

    def _note(self, stage: Stage) -> str:
        return self._notes.get(stage.key, f"{stage.position}/{stage.total}")

    def _share(self) -> float:
        total = self._done + sum(self._left.values())
        return self._done / total if total else 1.0

    def _show(self, *, force: bool = False) -> None:
        now = self.clock()
        if self._keep is not None and (force or now - self._last_kept >= SECONDS_BETWEEN_UPDATES):
            self._last_kept = now
            self._keep(self.report())
        note = f"{timedelta(seconds=round(self.remaining()))} left"
        if self._bars is not None:
            total, facts = self._done + sum(self._left.values()), f" ({self.facts})"
            note += facts if self.facts else ""
            self._bars.update(self._grid_bar, total=total, completed=self._done, note=note)
        elif force or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            note += f", {self.facts}" if self.facts else ""
            print_line(
                self.console, f"[{100 * self._share():3.0f}%, {note}] {self._running_text()}"
            )

    def _running_text(self) -> str:
        """What runs, the newest first, in one line."""
        newest = [f"{stage.description} {self._note(stage)}" for stage, _ in self._running.values()]
        text = "; ".join(newest[: -_MOST_SHOWN - 1 : -1])
        others = len(newest) - _MOST_SHOWN
        return f"{text}; and {others} more" if others > 0 else text


@dataclass
class Stage:
    """A running job of ``total`` equal parts; told how far it is."""

    progress: Progress
    key: Key
    description: str
    total: int
    position: int = 0

    def reach(self, position: int, note: str = "", *, was_done: bool = True) -> None:
        """The first ``position`` parts are over; ``was_done`` is false for those found done."""
        parts = position - self.position
        self.position = position
        self.progress.reached(self, parts, note, was_done=was_done)

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
