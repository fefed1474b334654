"""How many images or texts go through a model at once: bounded by their size, not by a count."""

from __future__ import annotations


def at_once(count: int, size: int, *, usual: int) -> int:
    """How many of a size go through a model together: ``count``, or fewer if larger than usual.

    Both sizes are in one unit, pixels or tokens. At least one goes, however large it is.
    """
    return max(1, min(count, count * usual // max(size, 1)))
