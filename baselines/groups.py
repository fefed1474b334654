"""Statistics of groups: the images of one prompt, wherever in a batch they stand."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


def _group_index(group_ids: Sequence[Hashable] | Tensor) -> Tensor:
    """Number the groups in order of first appearance. -> (N,)."""
    names = group_ids.tolist() if isinstance(group_ids, Tensor) else list(group_ids)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.long)


def group_advantages(
    rewards: Sequence[float] | Tensor,
    group_ids: Sequence[Hashable] | Tensor,
    global_std: bool,
    eps: float = 1e-4,
) -> Tensor:
    """Centre rewards on their group's mean and divide by (population std + eps). -> (N,), float32.

    Images of the same prompt share an entry of ``group_ids``, (N,), e.g. the prompt; groups may
    differ in size, and a group of one has advantage 0. ``global_std`` takes the spread of all
    rewards instead of the group's. ``eps`` is in units of the reward.

    Source: methods.md, Flow-GRPO; golden ``group_advantages``.
    """
    # float32 would lose differences that a reward of doubles has: 1 and 1 + 2^-25 are a spread.
    values = torch.as_tensor(rewards, dtype=torch.float64)
    index = _group_index(group_ids).to(values.device)
    counts = torch.bincount(index)

    def group_mean(quantity: Tensor) -> Tensor:
        sums = torch.zeros(len(counts), dtype=quantity.dtype, device=quantity.device)
        return sums.index_add(0, index, quantity) / counts

    centred = values - group_mean(values)[index]
    std = values.std(correction=0) if global_std else group_mean(centred.square()).sqrt()[index]
    return (centred / (std + eps)).float()


def group_spread(rewards: Tensor, group_ids: Sequence[Hashable] | Tensor) -> tuple[Tensor, Tensor]:
    """Largest minus smallest of ``rewards``, (N,), in each group.

    -> The spread of each group, (num_groups,), and each image's group, (N,).
    """
    index = _group_index(group_ids).to(rewards.device)
    empty = rewards.new_zeros(int(index.max()) + 1)
    # Not the standard deviation, which rounding makes greater than 0 for equal rewards.
    highest = empty.scatter_reduce(0, index, rewards, "amax", include_self=False)
    lowest = empty.scatter_reduce(0, index, rewards, "amin", include_self=False)
    return highest - lowest, index


def group_ranks(rewards: Tensor, index: Tensor) -> Tensor:
    """Place of each of ``rewards``, (N,), in its group of ``index``, (N,), 0 for the best. -> (N,).

    Of equal rewards the one that stands first has the better place.
    """
    by_reward = rewards.argsort(descending=True, stable=True)
    order = by_reward[index[by_reward].argsort(stable=True)]
    counts = torch.bincount(index)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = torch.arange(len(rewards), device=rewards.device) - first
    return torch.empty_like(place).scatter(0, order, place)


def prompt_ids(prompts: Sequence[str]) -> Tensor:
    """Number each prompt by its text. -> (N,), int64."""
    # Not hash(): Python salts it anew in every process, and groups may be spread over processes.
    digests = [hashlib.blake2b(prompt.encode(), digest_size=8).digest() for prompt in prompts]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])
