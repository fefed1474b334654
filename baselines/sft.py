"""Supervised fine-tuning: the flow-matching loss on curated data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from typing_extensions import override

from baselines.base import Batch, Collected, Generators, LossOutput, Method, VelocityModel
from baselines.flow_matching import draw_training_point, on_trajectory_term
from baselines.sft_config import SftConfig


class Sft(Method):
    """``(v(latents(sigma), sigma, c) - (noise - x0))^2``, a mean over elements and rows."""

    needs_rollout = False

    def __init__(self, config: SftConfig, *, shift: float) -> None:
        self.config = config
        self.shift = shift

    @override
    def collect(self, velocity: VelocityModel, batch: Batch, generators: Generators) -> Collected:
        dropout = self.config.condition_dropout
        point = draw_training_point(batch, generators, shift=self.shift, condition_dropout=dropout)
        return Collected(point)

    @override
    def weight(self, batch: Batch) -> float:
        return float(len(batch))

    @override
    def losses(
        self, velocity: VelocityModel, reference: VelocityModel | None, batch: Batch
    ) -> Iterator[LossOutput]:
        term, _ = on_trajectory_term(velocity, batch)
        yield replace(term, is_last=True)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        return len(batch) * self.config.forward_equivalents()
