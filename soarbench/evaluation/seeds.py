"""Evaluation noise: a function of prompt id and image index alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def evaluation_seed(prompt_id: str, image_index: int) -> int:
    """Seed of one image, 0 .. 2**63 - 1, from the sha256 of ``prompt_id/image_index``."""
    digest = hashlib.sha256(f"{prompt_id}/{image_index}".encode()).digest()
    # Python's own hash() of a text changes from process to process.
    return int.from_bytes(digest[:8], "big") >> 1


def evaluation_noise(images: Sequence[tuple[str, int]], shape: tuple[int, int, int]) -> Tensor:
    """Starting noise of images given as (prompt id, image index). -> (B, *shape) float32, CPU."""
    # A generator an image: neither the batch nor the number of GPUs changes which noise it gets.
    # On the CPU whatever the device, so that every machine draws the same images.
    rows = []
    for prompt_id, image_index in images:
        generator = torch.Generator().manual_seed(evaluation_seed(prompt_id, image_index))
        rows.append(torch.randn(shape, generator=generator))
    return torch.stack(rows)
