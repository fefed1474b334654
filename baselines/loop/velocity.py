"""Views of a model that the loop hands to methods: in chunks, and as it was before training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn

from baselines.base import Condition, VelocityModel
from baselines.loop.sharding import reshard

VelocityOf = Callable[[nn.Module], VelocityModel]
"""Makes a module what methods see; also called on the module that accelerate wrapped."""


class InChunks:
    """A model that sees few rows at a time: those that training will put through it together.

    Bounds the memory of a collection, and since equal batches give equal bits, Flow-GRPO's first
    ratios are exactly 1. A batch of several blocks of all rows (guidance: empty prompts first, then
    prompts) is cut within each block.

    Args:
        velocity: The model.
        chunks: Rows of each call; together all rows.
    """

    def __init__(self, velocity: VelocityModel, chunks: Sequence[Sequence[int]]) -> None:
        self.velocity = velocity
        self.chunks = chunks
        self.num_rows = sum(map(len, chunks))

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of all rows, as ``latents``, computed chunk by chunk."""
        parts = self._parts(len(latents), latents.device)
        outputs = [
            self.velocity(
                latents[rows], sigma[rows], {name: value[rows] for name, value in condition.items()}
            )
            for rows in parts
        ]
        return torch.cat(outputs)[torch.cat(parts).argsort()]

    def _parts(self, count: int, device: torch.device) -> list[Tensor]:
        """Rows of each call."""
        if count % self.num_rows:
            size = max(map(len, self.chunks))
            starts = range(0, count, size)
            return [torch.arange(i, min(i + size, count), device=device) for i in starts]
        blocks = range(0, count, self.num_rows)
        return [
            torch.tensor([first + row for first in blocks for row in chunk], device=device)
            for chunk in self.chunks
        ]


class InAutocast:
    """A model under accelerate's autocast, whose output is float32, as of a model that it wraps.

    Args:
        velocity: The model.
        accelerator: Knows the precision.
    """

    def __init__(self, velocity: VelocityModel, accelerator: Accelerator) -> None:
        self.velocity = velocity
        self.accelerator = accelerator

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity, as ``latents``; float32."""
        with self.accelerator.autocast():
            return self.velocity(latents, sigma, condition).float()


class Reference:
    """A ``VelocityModel`` that is never trained and never carries a gradient.

    Under an adapter it is the model without it; a full fine-tune keeps a frozen copy.

    Args:
        model: The unwrapped model, before training.
        accelerator: Its autocast applies to the copy as it does to the trained model.
        velocity_of: Makes a module what methods see.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, velocity_of: VelocityOf) -> None:
        self.accelerator = accelerator
        self.adapted = model if isinstance(model, PeftModel) else None
        source = model if self.adapted else copy.deepcopy(model).requires_grad_(False)
        self.velocity = velocity_of(source)

    @torch.no_grad()
    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of the base model, as ``latents``."""
        with self.accelerator.autocast():
            if self.adapted is None:
                return self.velocity(latents, sigma, condition)
            # peft marks the adapter's weights as untrained meanwhile, and must find the same ones
            # afterwards: the shards, not what a forward gathered of them.
            reshard(self.adapted)
            with self.adapted.disable_adapter():
                output = self.velocity(latents, sigma, condition)
                reshard(self.adapted)
            return output
