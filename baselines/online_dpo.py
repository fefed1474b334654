"""Online DPO: the best image of a group is preferred to its worst (Diffusion-DPO on flow matching).

Wallace et al. 2023, arXiv:2311.12908; both images are noised alike, and an error smaller than the
reference's stands for a larger likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override

from baselines.base import Batch, Collected, Generators, LossOutput, Policies
from baselines.flow import add_noise, velocity_mse
from baselines.group_method import SelectionMethod, rows_in_loss
from baselines.groups import group_ranks
from baselines.online_dpo_config import OnlineDpoConfig


def preference_loss(
    chosen_error: Tensor,
    rejected_error: Tensor,
    chosen_reference: Tensor,
    rejected_reference: Tensor,
    beta: float,
) -> Tensor:
    """``-log sigmoid(-beta / 2 ((e_w - e_w_ref) - (e_l - e_l_ref)))``. -> (B,).

    Errors, (B,), are mean squared velocity errors at the same noise and level. Where policy and
    reference are equal this is log 2.

    Source: arXiv:2311.12908, eq. 14; methods.md, Online DPO.
    """
    change = (chosen_error - chosen_reference) - (rejected_error - rejected_reference)
    return -logsigmoid(-beta / 2 * change)


class OnlineDpo(SelectionMethod):
    """``preference_loss`` of the best and worst image of every group whose rewards differ.

    The row of the best image stands for the pair; the mean is over pairs.
    """

    config: OnlineDpoConfig

    @override
    def _credit(
        self, rewards: Tensor, index: Tensor, spread: Tensor
    ) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        places = group_ranks(rewards, index)
        is_worst = places == torch.bincount(index)[index] - 1
        worst = torch.empty(len(spread), dtype=torch.long)
        worst[index[is_worst]] = is_worst.nonzero().flatten()
        return {"active": (places == 0) & (spread > 0)[index], "worst": worst[index]}, {}

    @override
    @torch.no_grad()
    def collect(self, policies: Policies, batch: Batch, generators: Generators) -> Collected:
        collected = super().collect(policies, batch, generators)
        # The worst image may have been made by another process.
        images = self.world.gather(collected.batch["x0"])
        pairs = collected.batch.with_tensors(rejected=images[collected.batch["worst"]])
        return replace(collected, batch=pairs)

    @override
    def losses(self, policies: Policies, batch: Batch) -> Iterator[LossOutput]:
        reference = self._reference(policies)
        assert reference is not None
        rows, share = rows_in_loss(batch)
        images = torch.cat([rows["x0"], rows["rejected"]])
        noise, sigma = torch.cat([rows["noise"]] * 2), torch.cat([rows["sigma"]] * 2)
        condition = {name: torch.cat([value] * 2) for name, value in rows.condition.items()}
        latents, target = add_noise(images, noise, sigma), noise.float() - images.float()
        with torch.no_grad():
            base = velocity_mse(reference(latents, sigma, condition), target)
        error = velocity_mse(policies.trained(latents, sigma, condition), target)
        (chosen, rejected), (chosen_base, rejected_base) = error.chunk(2), base.chunk(2)
        loss = preference_loss(chosen, rejected, chosen_base, rejected_base, self.config.beta)
        is_preferred = chosen - chosen_base < rejected - rejected_base
        items = {
            "train/preference_accuracy": is_preferred.float(),
            "train/chosen_error": chosen.detach(),
        }
        metrics = {name: share * item.sum() for name, item in items.items()}
        yield LossOutput(share * loss.sum(), metrics, is_last=True)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        # Of both images a forward, a backward of two, and the reference's forward.
        return len(batch) * self.config.rollout_forwards + 2 * 4 * self.weight(batch)
