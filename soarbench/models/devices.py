"""The device that a run computes on."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable

import torch

from soarbench.common.errors import UserError


def torch_device(name: str) -> torch.device:
    """The configured device, ``auto`` being CUDA where there is one; ``UserError`` without it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name!r}: must be auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use device=auto or device=cpu"
        )
    return device


def gpu_readings(index: int) -> dict[str, float]:
    """Memory of a GPU by MLflow's names, and where ``nvidia-ml-py`` is installed how busy it is."""
    free, total = torch.cuda.mem_get_info(index)
    values = {
        f"gpu_{index}_memory_usage_megabytes": (total - free) / 1e6,
        f"gpu_{index}_memory_usage_percentage": 100 * (1 - free / total),
    }
    if importlib.util.find_spec("pynvml") is not None:
        values |= {f"gpu_{index}_{name}": value for name, value in _readings_of_nvml(index).items()}
    return values


def _readings_of_nvml(index: int) -> dict[str, float]:
    """How busy a GPU is, as far as it says so: a part of a card (MIG, vGPU) does not."""
    nvml_error: type[Exception] = importlib.import_module("pynvml").NVMLError

    readings: dict[str, Callable[[], float]] = {
        "utilization_percentage": lambda: float(torch.cuda.utilization(index)),
        "power_usage_watts": lambda: torch.cuda.power_draw(index) / 1000,
    }
    values = {}
    for name, read in readings.items():
        # torch's own where it does not find the card, as one whose parts go by names of their own.
        with contextlib.suppress(nvml_error, RuntimeError):
            values[name] = read()
    return values
