"""The device that a run computes on."""

from __future__ import annotations

import pytest
import torch

from soarbench.models.devices import gpu_readings


@pytest.mark.gpu
def test_a_gpu_says_how_full_it_is() -> None:
    kept = torch.zeros(2**28, dtype=torch.uint8, device="cuda:0")
    values = gpu_readings(0)
    assert values["gpu_0_memory_usage_megabytes"] > kept.nbytes / 1e6
    assert 0 < values["gpu_0_memory_usage_percentage"] <= 100
