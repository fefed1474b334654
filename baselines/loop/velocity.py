"""Views of a model that the loop hands to methods: under autocast, and before training."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn

from baselines.base import Condition, VelocityModel
from baselines.loop.sharding import reshard

VelocityOf = Callable[[nn.Module], VelocityModel]
"""Makes a module what methods see; also called on the module that accelerate wrapped."""


@contextlib.contextmanager
def casts_kept(device: torch.device) -> Iterator[None]:
    """Inside the block autocast casts each trained weight once, not once a forward.

    The copies take 2 bytes a weight that is trained in float32, and end with the block, which is to
    end before the weights change. Equal bits where a term of a loss has one forward with gradients.
    """
    # torch forgets its casts where the outermost autocast ends. This one casts nothing, since
    # rewards and formulas compute as they are; backward, on a thread of its own, would be outside,
    # and gradient checkpointing would cast again for each layer that it repeats.
    with (
        torch.autocast(device.type, enabled=False),
        torch.autograd.set_multithreading_enabled(False),
    ):
        yield


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
        # accelerate wraps the trained model alone, and a first KL of 0 needs the same precision: of
        # the forward, and of the guidance that joins its outputs.
        with accelerator.autocast():
            if adapted is None:
                return velocity(latents, sigma, condition).float()
            # peft marks the adapter's weights as untrained meanwhile, and must find the same ones
            # afterwards: the shards, not what a forward gathered of them.
            reshard(adapted)
            with adapted.disable_adapter():
                output = velocity(latents, sigma, condition).float()
                reshard(adapted)
            return output

    return base
