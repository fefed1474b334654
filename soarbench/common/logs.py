"""What processes of soarbench say by themselves."""

from __future__ import annotations

import logging
import sys

from typing_extensions import override


class _Stderr(logging.Handler):
    """Writes to what ``sys.stderr`` is now: live bars take its place, and print lines above."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


def set_levels(handler: logging.Handler | None = None) -> None:
    """Of libraries only what is wrong; the package itself says how far long work is."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[handler or _Stderr()]
    )
    logging.getLogger("soarbench").setLevel(logging.INFO)
