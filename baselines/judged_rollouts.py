"""Rewards of a collection that is rolled out in parts; elsewhere they are computed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from baselines.base import Batch, World
from baselines.rewards.base import checked_rewards, reward_name
from evaluators.devices import on_device

Part = tuple[Sequence[int], Tensor]
"""Rows of a collection, and their latents at sigma 0."""

#: Images that are judged at a time elsewhere, at least: as many as judges take in a batch.
JUDGED_TOGETHER = 32


def rewards_of(world: World, batch: Batch, parts: Iterable[Part]) -> list[float]:
    """One number a row of ``batch``, whose parts are rolled out as they are taken.

    ``RewardError`` for an answer that cannot be used; what the reward raises is raised here, once
    the last part is rolled out.
    """
    if world.is_reward_elsewhere:
        return _meanwhile(world, batch, parts)
    ((rows, latents),) = _joined(parts, len(batch))
    # All in one call and in the rows' order: a judge's batches decide how its numbers round.
    images = world.decode(latents[on_device(torch.tensor(rows).argsort(), latents.device)])
    return _answer(world, batch.prompts, images, batch.columns)


def _joined(parts: Iterable[Part], num_rows: int) -> Iterator[Part]:
    """Parts joined to such as have at least ``num_rows``; the last may have fewer."""
    rows: list[int] = []
    latents: list[Tensor] = []
    for more, end in parts:
        rows, latents = [*rows, *more], [*latents, end]
        if len(rows) >= num_rows:
            yield rows, torch.cat(latents)
            rows, latents = [], []
    if rows:
        yield rows, torch.cat(latents)


def _meanwhile(world: World, batch: Batch, parts: Iterable[Part]) -> list[float]:
    """Rewards of some parts are asked for in a thread while the next parts are rolled out."""
    values = [0.0] * len(batch)
    # One thread, since a judge is one model. Nothing collective runs in it: processes only stay in
    # step because all of them run the same forwards, in the main thread.
    pool = ThreadPoolExecutor(1, thread_name_prefix="reward")
    try:
        answers = []
        for rows, latents in _joined(parts, JUDGED_TOGETHER):
            prompts = [batch.prompts[row] for row in rows]
            columns = {name: [of[row] for row in rows] for name, of in batch.columns.items()}
            images = world.decode(latents)
            answers.append((rows, pool.submit(_answer, world, prompts, images, columns)))
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
