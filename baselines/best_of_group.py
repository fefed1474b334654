"""Best-of-group fine-tuning: the model imitates the images of its own that the reward likes best.

Rejection sampling in front of SFT; no likelihood, no advantage and no reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor
from typing_extensions import override

from baselines.base import Batch, LossOutput, Policies
from baselines.best_of_group_config import BestOfGroupConfig
from baselines.flow_matching import on_trajectory_term
from baselines.group_method import SelectionMethod, rows_in_loss
from baselines.groups import group_ranks


class BestOfGroup(SelectionMethod):
    """The flow-matching loss of the ``keep`` best images of every group, a mean over them."""

    config: BestOfGroupConfig

    @override
    def _credit(
        self, rewards: Tensor, index: Tensor, spread: Tensor
    ) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        active = group_ranks(rewards, index) < self.config.keep
        return {"active": active}, {"rollout/kept_reward_mean": rewards[active].mean().item()}

    @override
    def losses(self, policies: Policies, batch: Batch) -> Iterator[LossOutput]:
        rows, share = rows_in_loss(batch)
        term, _ = on_trajectory_term(policies.trained, rows)
        metrics = {name: share * value for name, value in term.metrics.items()}
        yield LossOutput(share * term.loss_sum, metrics, is_last=True)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        return len(batch) * self.config.rollout_forwards + 3 * self.weight(batch)
