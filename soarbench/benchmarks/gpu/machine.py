"""Which GPU this is, and whether it can be measured at all."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from soarbench.common.errors import UserError
from soarbench.common.provenance import git_commit
from soarbench.planning.demand import gpus
from soarbench.planning.memory_and_time import GB, Gpu

#: The smallest measurement, SFT with an adapter on SD3.5-Medium in bf16, with room for the context.
LEAST_GB = 12
_PACKAGES = ("diffusers", "transformers", "accelerate", "peft", "open_clip_torch")
# Cards of the same name and a lower peak, whose utilisation the table would understate.
_OTHER_FORMS = ("PCIe", "NVL", "MIG", "Max-Q", "Laptop")


def require_machine(name: str) -> None:
    """``UserError`` where torch is too old, or the device is no GPU with enough memory."""
    _require_torch()
    device = torch.device("cpu" if name == "auto" else name)
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        build = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
        raise UserError(
            f"device={device}: no CUDA device here (torch {torch.__version__} {build}); use a "
            "machine with an NVIDIA GPU and its driver"
        )
    free = torch.cuda.mem_get_info(device)[0] / GB
    if free < LEAST_GB:
        raise UserError(
            f"device={device}: needs {LEAST_GB} GB and {torch.cuda.get_device_name(device)} has "
            f"{free:.1f} free; end what else runs there, or use a larger GPU"
        )


def _require_torch() -> None:
    floor = _torch_floor()
    # What is built, +cu130, is no older and no newer.
    if Version(Version(torch.__version__).base_version) < floor:
        raise UserError(
            f"torch {torch.__version__} is too old: soarbench needs {floor} or newer; "
            f"pip install 'torch>={floor}'"
        )


def _torch_floor() -> Version:
    """The oldest torch that the package admits."""
    needs = [Requirement(line) for line in requires("soarbench") or ()]
    (torch_,) = [need for need in needs if need.name == "torch"]
    return max(Version(part.version) for part in torch_.specifier)


def known_gpu(name: str, memory_gb: float) -> Gpu | None:
    """The planner's row for a card by torch's name for it; None where there is none."""
    if any(form in name for form in _OTHER_FORMS):
        return None
    joined = name.replace(" ", "").lower()
    rows = {key: row for key, row in gpus().items() if key.partition("-")[0] in joined}
    # A40 is in no A100, but L4 is in L40S: the longest name is meant.
    longest = max((len(key.partition("-")[0]) for key in rows), default=0)
    fitting = [row for key, row in rows.items() if len(key.partition("-")[0]) == longest]
    nearest = min(fitting, key=lambda row: abs(row.memory_gb - memory_gb), default=None)
    # Makers' gigabytes are a few per cent more than what torch sees.
    is_near = nearest is not None and abs(nearest.memory_gb / memory_gb - 1) < 0.15
    return nearest if is_near else None


def facts(device: torch.device) -> dict[str, object]:
    """What a number depends on beside the measured code."""
    known: dict[str, object] = {
        "device": device.type,
        "name": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        known |= {
            "name": card.name,
            "memory_gb": card.total_memory / GB,
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return known


def _commit() -> str:
    """Of the checkout, or of the one that the bundle on this machine was packed from."""
    packed = Path(__file__).parents[3] / "wheels/commit"
    return packed.read_text().strip() if packed.is_file() else git_commit()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The driver's version; None where nvidia-smi is not installed."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 else None
