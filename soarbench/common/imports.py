"""Imports of large libraries."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def large_imports() -> Iterator[None]:
    """Import torch and what comes with it inside the block, which costs a quarter less so.

    Half a million objects are made that stay. The garbage collector looks through them neither
    meanwhile nor ever after, where every ``gc.collect()`` would take a second for it.
    """
    # Where all is there already, tensors may be, too, and they must not stay for good.
    is_first, was_on = "diffusers" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
        if is_first and "diffusers" in sys.modules:
            gc.freeze()
    finally:
        if was_on:
            gc.enable()
