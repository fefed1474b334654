"""Evaluation noise: a function of prompt id and image index alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.flow import draw_noise


def evaluation_seed(prompt_id: str, image_index: int) -> int:
    """Seed of one image, 0 .. 2**63 - 1, from the sha256 of ``prompt_id/image_index``."""
    digest = hashlib.sha256(f"{prompt_id}/{image_index}".encode()).digest()
    # Python's own hash() of a text changes from process to process.
    return int.from_bytes(digest[:8], "big") >> 1


def evaluation_generators(images: Sequence[tuple[str, int]]) -> list[torch.Generator]:
    """One an image, given as (prompt id, image index), at its start."""
    # A generator an image: neither the batch nor the number of GPUs changes which noise it gets.
    # On the CPU whatever the device, so that every machine draws the same images.
    return [torch.Generator().manual_seed(evaluation_seed(*image)) for image in images]


def evaluation_noise(images: Sequence[tuple[str, int]], shape: tuple[int, int, int]) -> Tensor:
    """The first noise of ``evaluation_generators``. -> (B, *shape) float32, CPU."""
    return draw_noise(shape, evaluation_generators(images), torch.device("cpu"))
