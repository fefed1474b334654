"""Learning from rewards on the forward process: images of a rollout, noised anew."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from baselines.base import Batch, Generators, LossOutput, Policies, VelocityModel, World
from baselines.flow import add_noise, draw_noise, draw_uniform, guided_velocity, velocity_mse
from baselines.flow_matching import velocity_rms
from baselines.group_config import ForwardProcessConfig
from baselines.group_method import AdvantageMethod, masked_sum
from evaluators.devices import on_device


def old_policy_decay(step: int, flat: int, rate: float, hold: float) -> float:
    """Share of the old policy that stays after ``step`` updates, in [0, hold].

    ``min(rate max(step - flat, 0), hold)``: at first the old policy is the trained one.

    Source: methods.md, DiffusionNFT; golden ``nft_decay``.
    """
    return min(rate * max(step - flat, 0), hold)


@dataclass(frozen=True)
class Point:
    """Rows at one trained level; tensors are batch first.

    Attributes:
        latents: ``add_noise(x0, noise, sigma)``.
        sigma: (B,).
        x0: Clean latents of the rollout.
        noise: As ``x0``.
        velocity: The trained policy's, with gradients.
        old_velocity: The old policy's, where the method keeps one.
        old_log_prob: (B,), where the collection gave one.
    """

    latents: Tensor
    sigma: Tensor
    x0: Tensor
    noise: Tensor
    velocity: Tensor
    old_velocity: Tensor | None
    old_log_prob: Tensor | None


class ForwardProcess(AdvantageMethod):
    """A loss at freshly noised images, plus ``kl_coeff mean((v - v_ref)^2)``.

    Every image is trained at some levels of the sampler's own schedule, in random order; the mean
    is over (row, level) items.
    """

    config: ForwardProcessConfig

    def __init__(self, config: ForwardProcessConfig, world: World) -> None:
        super().__init__(config, world)
        if config.keeps_old_policy:
            self.old_decay = partial(
                old_policy_decay, flat=config.old_flat, rate=config.old_rate, hold=config.old_hold
            )

    @abc.abstractmethod
    def _sampling_policy(self, policies: Policies) -> VelocityModel:
        """The policy that makes the images."""

    @abc.abstractmethod
    def _loss(self, point: Point, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's loss, (B,), without the KL; and what is logged of it, (B,) each."""

    @override
    def _rollout(
        self, policies: Policies, batch: Batch, generators: Generators
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = self._sample(self._sampling_policy(policies), batch, generators)
        return x0, {"x0": x0, **self._draw_points(x0, generators)}

    def _draw_points(self, x0: Tensor, generators: Generators) -> dict[str, Tensor]:
        """Draw ``sigmas``, (B, S), no level twice in a row, and ``noise``, (B, S, ...)."""
        count, levels = self.config.num_trained_levels, on_device(self.sigmas[:-1], x0.device)
        order = draw_uniform(levels.shape, generators, x0.device).argsort(dim=1)[:, :count]
        noise = draw_noise((count, *x0.shape[1:]), generators, x0.device)
        return {"sigmas": levels[order], "noise": noise}

    def _velocity(
        self, model: VelocityModel, latents: Tensor, sigma: Tensor, batch: Batch
    ) -> Tensor:
        conditions = (batch.condition, batch.negative_condition, self.config.guidance_scale)
        return guided_velocity(model, latents, sigma, *conditions).float()

    @override
    def weight(self, batch: Batch) -> float:
        return super().weight(batch) * self.config.num_trained_levels

    @override
    def losses(self, policies: Policies, batch: Batch) -> Iterator[LossOutput]:
        reference = self._reference(policies)
        for level in range(self.config.num_trained_levels):
            yield self._term(policies, reference, batch, level)

    def _term(
        self, policies: Policies, reference: VelocityModel | None, batch: Batch, level: int
    ) -> LossOutput:
        """Loss of every row at one of its levels."""
        config, x0 = self.config, batch["x0"]
        sigma, noise = batch["sigmas"][:, level], batch["noise"][:, level]
        latents = add_noise(x0, noise, sigma)
        asked = {"old": policies.old if config.keeps_old_policy else None, "reference": reference}
        # Before the policy's forward, so that they do not need memory at the same time.
        with torch.no_grad():
            others = {
                name: None if model is None else self._velocity(model, latents, sigma, batch)
                for name, model in asked.items()
            }
        v = self._velocity(policies.trained, latents, sigma, batch)
        log_prob = batch["old_log_prob"][:, level] if "old_log_prob" in batch.tensors else None
        point = Point(latents, sigma, x0, noise, v, others["old"], log_prob)
        loss, items = self._loss(point, batch["advantages"])
        items["train/velocity_rms"] = velocity_rms(v)
        base = others["reference"]
        if base is not None:
            items["train/kl"] = velocity_mse(v, base)
            loss = loss + config.kl_coeff * items["train/kl"]
        is_last = level == config.num_trained_levels - 1
        return masked_sum(loss, items, batch["active"], is_last=is_last)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        # A micro-batch without a group of any spread may be rolled out and not trained on.
        config, is_trained = self.config, bool(batch["active"].any())
        collected = config.rollout_forwards + config.branches * config.collected_forwards
        return float(len(batch) * (config.forward_equivalents() if is_trained else collected))
