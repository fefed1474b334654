"""Weights that are spread over processes by torch's FSDP2, and how they become whole again.

Every function here that gathers is collective: all processes call it, in the same order.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from accelerate.state import AcceleratorState

DDP, FSDP2, ZERO2 = "ddp", "fsdp2", "zero2"
"""All on every process; weights, gradients and optimiser in shards, a layer gathered when it runs;
and, as in ZeRO's second stage, gathered weights that stay until the update is over."""


def sharding_arguments(parallelism: str) -> dict[str, Any]:
    """What ``TrainingArguments`` is told; nothing for ``ddp``."""
    if parallelism == DDP:
        return {}
    config = {
        "version": 2,
        "reshard_after_forward": parallelism == FSDP2,
        # Whole states are written, so that another number of processes can go on from them.
        "state_dict_type": "FULL_STATE_DICT",
    }
    return {"fsdp": True, "fsdp_config": config}


def enable(state: AcceleratorState, plugin_arguments: Mapping[str, object]) -> None:
    """Have accelerate shard, in float32 and on a CPU too, before a model is prepared."""
    # accelerate keeps the plugin of a CPU run unused, although torch's FSDP2 works there.
    if getattr(state, "fsdp_plugin", None) is None:
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**plugin_arguments)
    # Its policy for bf16 would round the timestep and sum gradients in bf16; autocast computes in
    # bf16 instead, as it does without shards.
    state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()


def local(parameter: nn.Parameter) -> nn.Parameter:
    """This process's part of a parameter, on the same storage; a whole one is itself."""
    if not isinstance(parameter, DTensor):
        return parameter
    return nn.Parameter(parameter.to_local().detach(), requires_grad=parameter.requires_grad)


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of the weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, on the CPU if it had any."""
    return tensor.full_tensor().detach().cpu() if isinstance(tensor, DTensor) else tensor


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole of which every process holds a part that is cut as ``like`` is."""
    if not isinstance(like, DTensor):
        return part
    # Shards may differ in size; without shape and stride torch would take them all for equal.
    placed = DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return whole(placed)


def scattered(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that every process holds, cut as ``like`` is."""
    if not isinstance(like, DTensor):
        return tensor
    placed = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return placed.to_local()


def reshard(model: nn.Module) -> None:
    """Give back what the last forward gathered, where no backward followed that did."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def plain_copy(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A diffusers model that holds ``state``, whatever ``model`` was wrapped or cut into."""
    # FSDP2 puts a class of its own before the one that the model had.
    kinds = (kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    kind = next(kind for kind in kinds if issubclass(kind, nn.Module))
    with torch.device("meta"):
        copy: nn.Module = kind.from_config(model.config)  # type: ignore[attr-defined]
    copy.load_state_dict(state, assign=True)
    return copy


def end_process() -> NoReturn:
    """End a process that has done its part of a distributed training, with exit code 0."""
    # The interpreter is not finalised. A gloo thread lets go of the tensors of the last collective
    # after the wait for it is over, and needs the interpreter's lock for that; where finalising
    # wins the race, the process aborts with all its work done ("terminate called without an active
    # exception", pytorch/pytorch#179291). destroy_process_group ends such threads only if nothing
    # holds the group, and torch's caches for sharded tensors do.
    torch.distributed.destroy_process_group()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
