"""What an update adds to the metrics and to the cost of a run; imports no framework."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from baselines.loop.checkpoints import COUNTERS_FILE, Counters

LOSS = "loss"


@dataclass(frozen=True)
class Share:
    """What one process adds to an update.

    ``sums`` are over its rows, of the loss (key ``loss``) and of the metrics; ``rollout`` are
    metrics of its part of a collection, empty where there was none.
    """

    sums: Mapping[str, float]
    rollout: Mapping[str, float]
    forward_equivalents: float
    reward_calls: int


@dataclass(frozen=True)
class LossWindow:
    """The Trainer's own part of an open window.

    Attributes:
        updates: Since the last logged point.
        loss_sum: Of their losses, in the float32 that the Trainer adds up in.
    """

    updates: int = 0
    loss_sum: float = 0.0


class Ledger:
    """Counters since the start of the run, and means of metrics since the last logged point."""

    def __init__(self, counters: Counters | None = None) -> None:
        self.counters = Counters() if counters is None else counters
        self._window: defaultdict[str, list[float]] = defaultdict(list)
        self._last_tick: float | None = None

    def save(self, checkpoint: Path, losses: LossWindow) -> None:
        """Write into a checkpoint: the counters, and what the open window holds."""
        # JSON writes as many digits as a float has: a resumed window logs the same bits.
        state = asdict(self.counters) | {"window": self._window, "losses": asdict(losses)}
        (checkpoint / COUNTERS_FILE).write_text(json.dumps(state), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> tuple[Ledger, LossWindow]:
        """Read what ``save`` wrote."""
        state = json.loads((checkpoint / COUNTERS_FILE).read_text(encoding="utf-8"))
        # Checkpoints without these keys were written where a window had just been closed.
        window, losses = state.pop("window", {}), LossWindow(**state.pop("losses", {}))
        ledger = cls(Counters(**state))
        ledger._window.update(window)
        return ledger, losses

    def tick(self) -> None:
        """Count the time since the last call; the first call starts the clock."""
        now = time.monotonic()
        if self._last_tick is not None:
            self.counters.seconds += now - self._last_tick
        self._last_tick = now

    def add(self, shares: Sequence[Share], *, weight: float, images: int) -> float:
        """Enter one update: a share a process. -> the loss over all processes.

        ``weight`` are the items over all processes that sums are divided by, ``images`` their rows.
        """
        self.counters.images_seen += images
        self.counters.forward_equivalents += math.fsum(s.forward_equivalents for s in shares)
        self.counters.reward_calls += sum(s.reward_calls for s in shares)
        sums = _add_up([share.sums for share in shares])
        loss = sums.pop(LOSS, 0.0)
        for name, value in _add_up([share.rollout for share in shares]).items():
            self._window[_with_space("rollout", name)].append(value / len(shares))
        # Nothing was trained on where no group has a spread; its rewards are still worth telling.
        if weight == 0:
            return 0.0
        for name, value in sums.items():
            self._window[_with_space("train", name)].append(value / weight)
        return loss / weight

    def close_window(self) -> dict[str, float]:
        """Means since the last call, and the counters."""
        means = {name: math.fsum(values) / len(values) for name, values in self._window.items()}
        self._window.clear()
        return means | {name: float(value) for name, value in asdict(self.counters).items()}


def _add_up(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sum by key; a key may be missing from some parts."""
    names = dict.fromkeys(itertools.chain.from_iterable(parts))
    # fsum rounds once: the order of the processes changes no digit.
    return {name: math.fsum(part.get(name, 0.0) for part in parts) for name in names}


def _with_space(space: str, name: str) -> str:
    """Put a bare name into a name space."""
    return name if "/" in name else f"{space}/{name}"
