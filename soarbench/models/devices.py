"""The device that a run computes on."""

from __future__ import annotations

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
