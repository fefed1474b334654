"""One update of the real loop on a pretended GPU, and what happened.

A case is settings of ``plan`` separated by semicolons, ``method=soar;lora=null``; ``fault=NAME``
among them plants one of ``FAULTS``, ``few=N`` leaves so many layers of each kind, and ``planned``
also asks the plan.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp._fully_shard import _fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from baselines import flow_matching
from baselines.flow import draw_noise
from baselines.group_method import GroupMethod
from baselines.loop import trainer
from baselines.loop.trainer import PostTrainer
from soarbench.benchmarks.full_size import one_update, planned_bytes, random_transformer
from soarbench.planning.demand import PlanOptions, read_request
from soarbench.planning.planner import Planner
from tests.pretended.device import pretended


class _Finished(Exception):
    """The update is taken; a checkpoint of tensors without content cannot be written."""


def noise_on_the_cpu(
    shape: tuple[int, ...], generators: list[torch.Generator], _: object
) -> Tensor:
    """As a draw that nobody sends to the device."""
    return draw_noise(shape, generators, torch.device("cpu"))


def error_in_half(prediction: Tensor, target: Tensor) -> Tensor:
    """As a loss that meets another type than the model's in a matrix product."""
    return (prediction.float().flatten(1) @ target.half().flatten(1).T).diagonal()


def error_that_waits(prediction: Tensor, target: Tensor) -> Tensor:
    """As a loss that looks at a value between forward and backward."""
    error = (prediction.float() - target.float()).square().flatten(1).mean(1)
    return error if error.sum().item() >= 0 else -error


#: By name, where a fault is planted and what takes the place of the right function.
FAULTS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "device": ("draw_noise", noise_on_the_cpu),
    "type": ("velocity_mse", error_in_half),
    "wait": ("velocity_mse", error_that_waits),
}


@contextlib.contextmanager
def processes(count: int) -> Iterator[None]:
    """As the first of several processes, of which the others do not exist.

    Their part of every collective is a tensor of the right shape; of objects, copies of ours.
    """
    if count == 1:
        yield
        return
    rank = {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(count)}
    address = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    torch.distributed.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    # Made before tensors lose their content, which says who is where in it.
    mesh = init_device_mesh("cuda", (count,))
    with (
        mock.patch.dict(os.environ, rank | address),
        mock.patch.object(_fully_shard, "_init_default_mesh", return_value=mesh),
        mock.patch.object(trainer, "gather_object", lambda objects: objects * count),
    ):
        yield
    torch.distributed.destroy_process_group()


def update(words: list[str], planner: Planner) -> dict[str, object]:
    """Take one update of the one method that the words name."""
    is_planned = "planned" in words
    fault = [word.removeprefix("fault=") for word in words if word.startswith("fault=")]
    few = [int(word.removeprefix("few=")) for word in words if word.startswith("few=")]
    words = [word for word in words if "=" in word and not word.startswith(("fault=", "few="))]
    (demand,) = read_request(PlanOptions(), words).demands.values()
    architecture = demand.model.architecture()
    for most in few:
        architecture = architecture.with_layers([min(n, most) for n in architecture.layers])
    device = torch.device("cuda", 0)
    judge = GroupMethod._judge

    def judged(self: GroupMethod, rewards: torch.Tensor, _: torch.Tensor) -> object:
        """Groups depend on content, so their statistics are those of real numbers."""
        with unset_fake_temporarily():
            rows = len(rewards)
            made, metrics = judge(self, torch.arange(float(rows)), torch.arange(rows) // 2)
        places = {name: "cpu" if name == "active" else device for name in made}
        return {name: torch.empty_like(t, device=places[name]) for name, t in made.items()}, metrics

    def finished(*_: object) -> None:
        raise _Finished

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(GroupMethod, "_judge", judged))
        stack.enter_context(mock.patch.object(PostTrainer, "_save_checkpoint", finished))
        for name in fault:
            stack.enter_context(mock.patch.object(flow_matching, *FAULTS[name]))
        stack.enter_context(processes(demand.num_processes))
        seen = stack.enter_context(pretended())
        with device:
            transformer = random_transformer(architecture, getattr(torch, demand.model.dtype))
        seen.peak = seen.now
        error = ""
        try:
            one_update(
                demand, transformer, lambda _step, _values: None, parallelism=demand.parallelism
            )
        except _Finished:
            pass
        except RuntimeError as raised:
            if not fault:
                raise
            error = f"{type(raised).__name__}: {raised}"
    result: dict[str, object] = {
        "error": error,
        "peak": seen.peak,
        "waits": dict(seen.waits),
        "uploads": dict(seen.uploads),
        "kernels": sorted(seen.kernels),
    }
    if is_planned:
        with mock.patch.object(type(demand.model), "architecture", return_value=architecture):
            result["planned"] = planned_bytes(demand, planner)
    return result


def results(cases: Sequence[str]) -> Iterator[dict[str, object]]:
    """Of each case."""
    # Each counts like demands of models with so many layers once.
    planners: defaultdict[str, Planner] = defaultdict(Planner)
    for case in cases:
        words = case.split(";")
        layers = next((word for word in words if word.startswith("few=")), "")
        yield update(words, planners[layers])
