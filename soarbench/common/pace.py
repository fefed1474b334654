"""Says how far long work is, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 15.0


class Pace:
    """Counts what is done, and tells it at most every fifteen seconds and at the end.

    Args:
        what: The work and its unit, e.g. ``encoded images``.
        total: Of all of it; null where nobody knows.
        tell: Takes a line.
    """

    def __init__(self, what: str, total: int | None, tell: Callable[[str], object]) -> None:
        self.what, self.total, self.tell = what, total, tell
        self.done = 0
        self._begun = self._last = time.monotonic()

    def advance(self, count: int) -> None:
        """Count some more."""
        self.done += count
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self._say(now)

    def finish(self) -> None:
        """Tell the end, if anything was told before."""
        if self._last > self._begun:
            self._say(time.monotonic())

    def _say(self, now: float) -> None:
        speed = self.done / max(now - self._begun, 1e-9)
        of_all = "" if self.total is None else f" of {self.total}"
        self.tell(f"{self.what}: {self.done}{of_all}, {speed:.1f} a second")
