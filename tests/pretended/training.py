"""One update of the real loop on a pretended GPU; prints what happened as JSON, a line a case.

``python -m tests.pretended.training CASE [CASE ...]``, a case being settings of ``plan`` separated
by semicolons, ``method=soar;lora=null``; ``fault=NAME`` among them plants one of ``FAULTS``,
and ``planned`` also asks the plan.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from baselines import flow_matching
from baselines.flow import draw_noise
from baselines.flow_grpo import FlowGrpo
from baselines.loop.post_train import post_train
from baselines.loop.trainer import PostTrainer
from soarbench.benchmarks.full_size import RandomRows, _world, planned_bytes, random_transformer
from soarbench.planning.demand import PlanOptions, read_request
from tests.pretended.device import pretended


class _Finished(Exception):
    """All updates are taken; a checkpoint of tensors without content cannot be written."""


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


def update(words: list[str], steps: int = 1) -> dict[str, object]:
    """Take updates of the one method that the words name."""
    is_planned = "planned" in words
    fault = [word.removeprefix("fault=") for word in words if word.startswith("fault=")]
    words = [word for word in words if "=" in word and not word.startswith("fault=")]
    (demand,) = read_request(PlanOptions(), words).demands.values()
    architecture = demand.model.architecture()
    device = torch.device("cuda", 0)
    judge = FlowGrpo._judge

    def judged(self: FlowGrpo, rewards: torch.Tensor, _: torch.Tensor) -> object:
        """Groups depend on content, so their statistics are those of real numbers."""
        with unset_fake_temporarily():
            rows = len(rewards)
            made, metrics = judge(self, torch.arange(float(rows)), torch.arange(rows) // 2)
        return {name: torch.empty_like(t, device=device) for name, t in made.items()}, metrics

    def finished(*_: object) -> None:
        raise _Finished

    training = replace(
        demand.training, steps=steps, save_steps=steps, logging_steps=1, num_snapshots=0
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(FlowGrpo, "_judge", judged))
        stack.enter_context(mock.patch.object(PostTrainer, "_save_checkpoint", finished))
        for name in fault:
            stack.enter_context(mock.patch.object(flow_matching, *FAULTS[name]))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        seen = stack.enter_context(pretended())
        with device:
            transformer = random_transformer(architecture, getattr(torch, demand.model.dtype))
        rows = RandomRows(demand, architecture)
        empty = rows.condition(torch.Generator().manual_seed(0))
        with contextlib.suppress(_Finished):
            post_train(
                transformer,
                demand.method.build(_world(demand, architecture)),
                rows,
                training,
                Path(folder),
                optim=demand.optim,
                lora=demand.lora,
                ema=demand.ema,
                seed=0,
                velocity_of=architecture.velocity,
                negative_condition={name: value[None] for name, value in empty.items()},
                on_log=lambda _step, _values: None,
                console=Console(quiet=True),
            )
    result = {"peak": seen.peak, "waits": dict(seen.waits)}
    return result | ({"planned": planned_bytes(demand)} if is_planned else {})


if __name__ == "__main__":
    for case in sys.argv[1:]:
        sys.stdout.write(json.dumps(update(case.split(";"))) + "\n")
