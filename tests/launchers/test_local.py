"""What ``launcher=local`` refuses."""

from __future__ import annotations

import pytest

from soarbench.common.errors import UserError
from soarbench.launchers.local import LocalConfig, require_gpus


def test_as_many_processes_as_gpus() -> None:
    many = LocalConfig(num_processes=8)
    require_gpus(0, "auto", many)
    require_gpus(8, "auto", many)
    with pytest.raises(UserError, match=r"num_processes=8: this machine has 2 CUDA devices; use"):
        require_gpus(2, "auto", many)
    with pytest.raises(UserError, match=r"device=cuda:1: one GPU for launcher\.num_processes=8"):
        require_gpus(1, "cuda:1", many)
    few = LocalConfig(num_processes=8, workers=4)
    with pytest.raises(UserError, match=r"has 4 CUDA devices for launcher\.workers=4; use"):
        require_gpus(4, "auto", few)
