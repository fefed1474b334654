"""Views of a model that the loop hands to methods: under autocast, and before training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn

from baselines.base import Condition, VelocityModel
from baselines.loop.sharding import reshard

VelocityOf = Callable[[nn.Module], VelocityModel]
"""Makes a module what methods see; also called on the module that accelerate wrapped."""


def in_autocast(velocity: VelocityModel, accelerator: Accelerator) -> VelocityModel:
    """A model under accelerate's autocast, whose output is float32, as of a model that it wraps."""

    def cast(latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        with accelerator.autocast():
            return velocity(latents, sigma, condition).float()

    return cast


def reference_of(
    model: nn.Module, accelerator: Accelerator, velocity_of: VelocityOf
) -> VelocityModel:
    """The model before training: without its adapter, or a frozen copy of a full fine-tune."""
    adapted = model if isinstance(model, PeftModel) else None
    velocity = velocity_of(adapted or copy.deepcopy(model).requires_grad_(False))

    @torch.no_grad()
    def base(latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        # accelerate wraps the trained model alone, and a first KL of 0 needs the same precision.
        with accelerator.autocast():
            if adapted is None:
                return velocity(latents, sigma, condition)
            # peft marks the adapter's weights as untrained meanwhile, and must find the same ones
            # afterwards: the shards, not what a forward gathered of them.
            reshard(adapted)
            with adapted.disable_adapter():
                output = velocity(latents, sigma, condition)
                reshard(adapted)
            return output

    return base
