"""Flow matching under Huber's loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import huber_loss
from typing_extensions import override

from baselines.base import Batch, Collected, LossOutput, Method, Policies, Schedule
from baselines.flow import add_noise
from baselines.flow_matching import draw_training_point
from toyplugin.huber_config import HuberConfig


class Huber(Method):
    """Huber's loss of ``v(latents(sigma), sigma, c)`` against ``noise - x0``.

    Args:
        config: Hyper-parameters.
        schedule: The model's noise levels.
    """

    def __init__(self, config: HuberConfig, *, schedule: Schedule) -> None:
        self.config = config
        self.schedule = schedule

    @override
    def collect(
        self, policies: Policies, batch: Batch, generators: Sequence[torch.Generator]
    ) -> Collected:
        # Each row has a generator of its own: how rows are batched changes no number.
        point = draw_training_point(
            batch, generators, schedule=self.schedule, condition_dropout=0.0
        )
        return Collected(point)

    @override
    def weight(self, batch: Batch) -> float:
        return float(len(batch))

    @override
    def losses(self, policies: Policies, batch: Batch) -> Iterator[LossOutput]:
        latents = add_noise(batch["x0"], batch["noise"], batch["sigma"])
        predicted = policies.trained(latents, batch["sigma"], batch.condition)
        target = batch["noise"].float() - batch["x0"].float()
        error = huber_loss(predicted.float(), target, reduction="none", delta=self.config.delta)
        loss = error.flatten(1).mean(1).sum()
        yield LossOutput(loss, {"train/huber": loss.detach()})

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        return len(batch) * self.config.forward_equivalents()
