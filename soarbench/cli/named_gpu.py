"""``device=cuda:N``: a process, and all that it starts, sees that GPU alone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from soarbench.launchers.worker import VISIBLE_GPUS, environment, visible

_NAMED = re.compile(r"device=cuda:(?P<index>\d+)")


def on_named_gpu(words: Sequence[str]) -> list[str]:
    """Hide all GPUs but the one that the words of a command name. -> The words for it.

    They are as they were where no GPU is named, where it is not there, and where it is too late.
    """
    # transformers trains on the first GPU that it sees, and judges load there, whatever is named.
    index = next((int(m["index"]) for m in map(_NAMED.fullmatch, reversed(words)) if m), 0)
    # The first one needs nothing. Other launchers compute on other machines. Whoever has torch
    # already may have asked CUDA, which reads the variable once.
    is_elsewhere = any(w.startswith("launcher=") and w != "launcher=local" for w in words)
    if index == 0 or is_elsewhere or "torch" in sys.modules or not _can_be_alone(index):
        return [*words]
    os.environ[VISIBLE_GPUS] = visible([index])
    return [_NAMED.sub("device=cuda", word) for word in words]


def _can_be_alone(index: int) -> bool:
    """Whether a GPU is there, and torch sees it alone where the others are hidden."""
    import torch

    if index >= torch.cuda.device_count():
        return False
    # Where the driver's library cannot be asked, counting is by CUDA, and fixes what it sees.
    with environment({VISIBLE_GPUS: visible([index])}):
        return torch.cuda.device_count() == 1
