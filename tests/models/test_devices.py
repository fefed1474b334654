"""The device that a run computes on."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from soarbench.models.devices import gpu_readings


@pytest.mark.gpu
def test_a_gpu_says_how_full_it_is() -> None:
    kept = torch.zeros(2**28, dtype=torch.uint8, device="cuda:0")
    values = gpu_readings(0)
    assert values["gpu_0_memory_usage_megabytes"] > kept.nbytes / 1e6
    assert 0 < values["gpu_0_memory_usage_percentage"] <= 100


def test_a_part_of_a_card_says_only_how_full_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        """As nvidia-ml-py's, which is no RuntimeError."""

    def refuse(_: int) -> int:
        raise NVMLError("Not Supported")

    module = ModuleType("pynvml")
    module.__spec__ = ModuleSpec("pynvml", None)
    monkeypatch.setattr(module, "NVMLError", NVMLError, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (25, 100))
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda _: 300_000)
    values = gpu_readings(1)
    assert values["gpu_1_memory_usage_percentage"] == 75
    assert values["gpu_1_power_usage_watts"] == 300
    assert "gpu_1_utilization_percentage" not in values
