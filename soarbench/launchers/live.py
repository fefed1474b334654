"""What a running grid says of itself, for ``status`` in another terminal."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from baselines.loop.disk import StorageError
from soarbench.common.files import read_passing, write_json


@dataclass(frozen=True)
class Live:
    """The file in a grid's folder that is written every second while it runs."""

    folder: Path

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / "live.json"

    def keep(self, report: Mapping[str, object]) -> None:
        """Write how far the grid is, unless the disk takes nothing."""
        facts = {"host": platform.node(), "pid": os.getpid(), "time": time.time()}
        # The jobs say so themselves, each for its own; here it would end those that need no disk,
        # or find it a second later: a network's disk may be away for a moment.
        with contextlib.suppress(StorageError, OSError):
            write_json(self.path, {**facts, **report})

    def read(self) -> dict[str, object] | None:
        """What was written last; None where nothing ever ran."""
        return read_passing(self.path)
