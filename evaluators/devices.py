"""Where a judge's model runs and in which precision; imports no framework before it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")


def check_dtype(name: str) -> None:
    """Refuse a dtype that no judge runs in by a ``ValueError`` that names those that there are."""
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r}: choose one of {', '.join(DTYPES)}")


def torch_device(name: str) -> torch.device:
    """The device that a config names; ``auto`` is the first GPU, else the CPU."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that a config names."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def on_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on a device, and of a dtype; no copy to a GPU is waited for."""
    # It would be, unless its source is pinned. Cast there, since the CPU's cast is not.
    is_upload = device.type == "cuda" and tensor.device.type == "cpu"
    source = tensor.pin_memory() if is_upload else tensor
    return source.to(device, non_blocking=is_upload).to(dtype or tensor.dtype)
