"""Supervised fine-tuning: the flow-matching loss on curated data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from typing_extensions import override

from baselines.base import Batch, Collected, Generators, LossOutput, Method, Policies, Schedule
from baselines.flow_matching import draw_training_point, on_trajectory_term
from baselines.sft_config import SftConfig


class Sft(Method):
    """``(v(latents(sigma), sigma, c) - (noise - x0))^2``, a mean over elements, points and rows."""

    needs_rollout = False

    def __init__(self, config: SftConfig, *, schedule: Schedule) -> None:
        self.config = config
        self.schedule = schedule

    @override
    def collect(self, policies: Policies, batch: Batch, generators: Generators) -> Collected:
        dropout = self.config.condition_dropout
        schedule = self.schedule
        point = draw_training_point(batch, generators, schedule=schedule, condition_dropout=dropout)
        for index in range(1, self.config.num_points):
            other = draw_training_point(batch, generators, schedule=schedule, condition_dropout=0)
            drawn = {f"sigma_{index}": other["sigma"], f"noise_{index}": other["noise"]}
            point = point.with_tensors(**drawn)
        return Collected(point)

    @override
    def weight(self, batch: Batch) -> float:
        return float(len(batch) * self.config.num_points)

    @override
    def losses(self, policies: Policies, batch: Batch) -> Iterator[LossOutput]:
        last = self.config.num_points - 1
        for index in range(last + 1):
            at = {name: batch[f"{name}_{index}"] for name in ("sigma", "noise") if index > 0}
            term, _ = on_trajectory_term(policies.trained, batch.with_tensors(**at))
            yield replace(term, is_last=index == last)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        return len(batch) * self.config.forward_equivalents()
