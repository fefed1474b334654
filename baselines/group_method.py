"""What methods share which roll out groups of images and learn from their rewards."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from typing_extensions import override

from baselines.base import (
    Batch,
    Collected,
    Generators,
    LossOutput,
    Method,
    Policies,
    VelocityModel,
    World,
)
from baselines.flow import draw_noise, euler_sample
from baselines.flow_matching import draw_training_point
from baselines.group_config import AdvantageConfig, GroupConfig
from baselines.groups import group_advantages, group_spread, prompt_ids
from baselines.judged_rollouts import Part, rewards_of
from evaluators.devices import on_device


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic loss, ``max(-A r, -A clip(r, 1 - c, 1 + c))``. -> (B,)."""
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


class GroupMethod(Method):
    """Rolls out groups of images, asks the reward, and says how each row is trained.

    Every row has a word ``active``, on the CPU: whether it enters the loss.
    """

    def __init__(self, config: GroupConfig, world: World) -> None:
        assert world.reward is not None
        self.config = config
        self.updates_per_collection = config.updates_per_collection
        self.group_size = config.group_size
        self.needs_reference = config.needs_reference
        self.rollout_batch_size = config.rollout_batch_size
        self.sigmas = world.sampling_sigmas(config.num_inference_steps)
        self.world = world

    @abc.abstractmethod
    def _rollout(
        self, policies: Policies, batch: Batch, generators: Generators
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Make images. -> Latents at sigma 0, (B, ...), and what is trained on, batch first."""

    @abc.abstractmethod
    def _credit(
        self, rewards: Tensor, index: Tensor, spread: Tensor
    ) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        """How each of N rows in ``len(spread)`` groups is trained: ``active`` and others; metrics.

        All of the collection and on the CPU: ``rewards``, (N,), the group of each, ``index``, (N,),
        and what ``group_spread`` gives of them.
        """

    @override
    @torch.no_grad()
    def collect(self, policies: Policies, batch: Batch, generators: Generators) -> Collected:
        rollout: dict[str, Tensor] = {}
        parts = self._parts(policies, batch, generators, into=rollout)
        values = rewards_of(self.world, batch, parts)
        device = next(iter(rollout.values())).device
        rewards = on_device(torch.tensor(values, dtype=torch.float64), device)
        judged, metrics = self._judge(rewards, on_device(prompt_ids(batch.prompts), device))
        return Collected(batch.with_tensors(**rollout, **judged), metrics, len(batch))

    def _parts(
        self, policies: Policies, batch: Batch, generators: Generators, *, into: dict[str, Tensor]
    ) -> Iterator[Part]:
        """Roll out part by part; what is trained on goes ``into`` tensors of all rows."""
        for rows in batch.parts or [range(len(batch))]:
            part = batch.select(rows)
            latents, rollout = self._rollout(policies, part, [generators[row] for row in rows])
            index = on_device(torch.tensor(rows), latents.device)
            for name, value in rollout.items():
                if name not in into:
                    into[name] = value.new_empty(len(batch), *value.shape[1:])
                into[name][index] = value
            yield rows, latents

    def _sample(self, velocity: VelocityModel, batch: Batch, generators: Generators) -> Tensor:
        """Images by Euler's steps. -> latents at sigma 0, (B, ...)."""
        device = self._device(batch)
        noise = draw_noise(self.world.latent_shape, generators, device)
        conditions = (batch.condition, batch.negative_condition, self.config.guidance_scale)
        return euler_sample(velocity, noise, on_device(self.sigmas, device), *conditions)

    def _device(self, batch: Batch) -> torch.device:
        tensors = (*batch.condition.values(), *batch.tensors.values())
        return tensors[0].device if tensors else torch.device("cpu")

    def _judge(
        self, rewards: Tensor, groups: Tensor
    ) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        """What ``_credit`` gives among the rewards of all processes, (B,) of this one; metrics."""
        local = slice(self.world.rank * len(rewards), (self.world.rank + 1) * len(rewards))
        # Groups may be spread over processes, and global_std is of the whole collection.
        device = rewards.device
        # Processes gather on the GPU; what follows looks at single values, each of which would wait
        # for it, and so would whoever asks later which rows are active.
        rewards, groups = self.world.gather(rewards).cpu(), self.world.gather(groups).cpu()
        spread, index = group_spread(rewards, groups)
        credit, more = self._credit(rewards, index, spread)
        mine = {name: value[local] for name, value in credit.items()}
        active = mine.pop("active")
        zero_spread = (spread == 0).double()
        metrics = {
            "rollout/reward_mean": rewards.mean().item(),
            "rollout/reward_std": rewards.std(correction=0).item(),
            "rollout/num_groups": float(len(spread)),
            "rollout/num_zero_std_groups": zero_spread.sum().item(),
            "rollout/frac_zero_std_groups": zero_spread.mean().item(),
            **more,
        }
        judged = {name: on_device(value, device) for name, value in mine.items()}
        return {**judged, "active": active}, metrics

    @override
    def weight(self, batch: Batch) -> float:
        return float(batch["active"].sum().item())

    def _reference(self, policies: Policies) -> VelocityModel | None:
        """The reference where the method asks for it; ``ValueError`` where it is not there."""
        if not self.needs_reference:
            return None
        if policies.reference is None:
            raise ValueError(f"{self.config.title} needs a reference model: give policies one")
        return policies.reference


def masked_sum(
    loss: Tensor, items: Mapping[str, Tensor], active: Tensor, *, is_last: bool
) -> LossOutput:
    """The term of a loss, (B,), and of metrics, (B,) each, over the rows that are active."""
    active = on_device(active, loss.device)
    metrics = {name: (item.detach() * active).sum() for name, item in items.items()}
    return LossOutput((loss * active).sum(), metrics, is_last)


def rows_in_loss(batch: Batch) -> tuple[Batch, float]:
    """The rows that are active, and 1; without any, the first one, and 0.

    A sharded model's forward is collective: a micro-batch that another process needs is run.
    """
    rows = [row for row, is_active in enumerate(batch["active"]) if is_active]
    return (batch.select(rows), 1.0) if rows else (batch.select([0]), 0.0)


class SelectionMethod(GroupMethod):
    """Trains on some images of each group, noised once as supervised fine-tuning does."""

    @override
    def _rollout(
        self, policies: Policies, batch: Batch, generators: Generators
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = self._sample(policies.trained, batch, generators)
        rows, schedule = batch.with_tensors(x0=x0), self.world.schedule
        point = draw_training_point(rows, generators, schedule=schedule, condition_dropout=0.0)
        return x0, {name: point[name] for name in ("x0", "sigma", "noise")}


class AdvantageMethod(GroupMethod):
    """Trains rows by their advantage."""

    config: AdvantageConfig

    @override
    def _credit(
        self, rewards: Tensor, index: Tensor, spread: Tensor
    ) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        config = self.config
        advantages = group_advantages(rewards, index, config.global_std)
        clipped = advantages.clamp(-config.advantage_clip, config.advantage_clip)
        # Whole groups, and a global mean: the public code drops single rows, refills at random and
        # divides by what is left on each GPU. A row that is left out stays in its chunk, with
        # weight 0, since another batch size could round differently.
        active = (spread > 0)[index] | (not config.skip_zero_std_groups)
        share = (clipped != advantages).double().mean().item()
        return {"advantages": clipped, "active": active}, {"rollout/frac_clipped_advantages": share}
