"""What processes of soarbench say by themselves."""

from __future__ import annotations

import logging


def set_levels() -> None:
    """Of libraries only what is wrong; the package itself says how far long work is."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("soarbench").setLevel(logging.INFO)
