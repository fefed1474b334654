"""Rewards of a collection that is rolled out in parts; elsewhere they are computed meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from baselines.base import Batch, World
from baselines.rewards.base import checked_rewards, reward_name


class Part(NamedTuple):
    """Some ``rows`` of a collection as a batch, rolled out to ``latents`` at sigma 0."""

    rows: Sequence[int]
    batch: Batch
    latents: Tensor


def rewards_of(world: World, batch: Batch, parts: Iterable[Part]) -> list[float]:
    """One number a row of ``batch``, whose parts are rolled out as they are taken.

    ``RewardError`` for an answer that cannot be used; what the reward raises is raised here, once
    the last part is rolled out.
    """
    if world.is_reward_elsewhere:
        return _meanwhile(world, batch, parts)
    rolled = [(part.rows, part.latents) for part in parts]
    order = torch.tensor(list(itertools.chain.from_iterable(rows for rows, _ in rolled))).argsort()
    latents = torch.cat([latents for _, latents in rolled])
    # All in one call and in the rows' order: a judge's batches decide how its numbers round.
    images = world.decode(latents[order.to(latents.device)])
    return _answer(world, batch.prompts, images, batch.columns)


def _meanwhile(world: World, batch: Batch, parts: Iterable[Part]) -> list[float]:
    """Each part's rewards are asked for in a thread while the next part is rolled out."""
    values = [0.0] * len(batch)
    # One thread, since a judge is one model. Nothing collective runs in it: processes only stay in
    # step because all of them run the same forwards, in the main thread.
    pool = ThreadPoolExecutor(1, thread_name_prefix="reward")
    try:
        answers = []
        for rows, part, latents in parts:
            # Without the part itself: were the judge slow, its tensors would fill the device.
            words = (part.prompts, world.decode(latents), part.columns)
            answers.append((rows, pool.submit(_answer, world, *words)))
        for rows, answer in answers:
            for row, value in zip(rows, answer.result(), strict=True):
                values[row] = value
    finally:
        # After a failure or an interruption, parts that still wait are not judged any more.
        pool.shutdown(cancel_futures=True)
    return values


# Threads begin with gradients on.
@torch.no_grad()
def _answer(
    world: World, prompts: Sequence[str], images: object, columns: Mapping[str, Sequence[object]]
) -> list[float]:
    assert world.reward is not None
    answer = world.reward(prompts, images, columns)
    return checked_rewards(reward_name(world.reward), answer, len(prompts))
