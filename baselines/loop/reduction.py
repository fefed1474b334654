"""Gradients summed over processes, in buckets and while the last backward still computes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from baselines.config import BUCKET_BYTES


def in_buckets(parameters: Iterable[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """Parameters in consecutive buckets, each closed by the one that fills its ``size`` bytes."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        if room <= 0:
            buckets.append([])
            room = size
        buckets[-1].append(parameter)
        room -= parameter.nbytes
    return buckets


def broadcast(model: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        torch.distributed.broadcast(tensor.detach(), 0)


class Reduction:
    """Sums of one update's gradients over processes.

    Every process sums the same buckets in the same order, whatever it ran of the update: the number
    of its backward calls may be any, and where it never calls ``start``, all follow in ``finish``.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], size: int = BUCKET_BYTES) -> None:
        # Backward reaches the last layers first.
        self._buckets = in_buckets(reversed(parameters), size)
        self._waiting = [set(map(id, bucket)) for bucket in self._buckets]
        self._number = {id(p): n for n, bucket in enumerate(self._buckets) for p in bucket}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._works: list[torch.distributed.Work] = []
        self._users: list[Tensor] = []

    def start(self) -> None:
        """Sum what the backward that follows, the last of this process, has finished."""
        parameters = itertools.chain.from_iterable(self._buckets)
        self._hooks = [p.register_post_accumulate_grad_hook(self._ready) for p in parameters]

    def _ready(self, parameter: Tensor) -> None:
        self._waiting[self._number[id(parameter)]].discard(id(parameter))
        while len(self._works) < len(self._buckets) and not self._waiting[len(self._works)]:
            self._launch()

    def _launch(self) -> None:
        """Sum the next bucket, whose gradients become views of one tensor."""
        bucket = self._buckets[len(self._works)]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        # Travels along, so that whether anybody used a parameter needs no collective of its own.
        is_used = torch.ones(len(bucket), device=parts[0].device)
        for place, parameter in enumerate(bucket):
            if parameter.grad is None:
                is_used[place] = 0
        flat = torch.cat([*(part.flatten() for part in parts), is_used])
        *sums, users = flat.split([*(part.numel() for part in parts), len(bucket)])
        for parameter, total in zip(bucket, sums, strict=True):
            parameter.grad = total.view_as(parameter)
        self._users.append(users)
        work = torch.distributed.all_reduce(flat, async_op=True)
        assert work is not None
        self._works.append(work)

    def finish(self) -> Tensor:
        """Sum the rest. -> how many processes used each of ``parameters``, on their device."""
        for hook in self._hooks:
            hook.remove()
        while len(self._works) < len(self._buckets):
            self._launch()
        for work in self._works:
            work.wait()
        return torch.cat(self._users).flip(0)
