"""What an update costs in model evaluations, asked of the methods themselves."""

from __future__ import annotations

import torch

from baselines.base import Batch, Method
from baselines.config import FlowGrpoConfig, SftConfig, SoarConfig
from baselines.flow_grpo import FlowGrpo
from baselines.sft import Sft
from baselines.soar import Soar
from soarbench.models.sd3.architecture import Architecture
from soarbench.planning.memory_and_time import Demand

#: Of Stable Diffusion 3; changes no count.
_SHIFT = 3.0


def forward_equivalents(demand: Demand, architecture: Architecture) -> float:
    """Model evaluations of one update, over all processes; a backward counts as two."""
    count = demand.loop.batch_size
    batch = Batch({"active": torch.ones(count, dtype=torch.bool)}, {}, {}, [""] * count)
    return plan_method(demand, architecture).forward_equivalents(batch)


def plan_method(demand: Demand, architecture: Architecture) -> Method:
    """The method of a demand; Flow-GRPO's reward is the same for every image."""
    match demand.method:
        case SftConfig():
            return Sft(demand.method, shift=_SHIFT)
        case SoarConfig():
            return Soar(demand.method, shift=_SHIFT)
        case FlowGrpoConfig():
            return FlowGrpo(
                demand.method,
                shift=_SHIFT,
                latent_shape=architecture.latent_shape(demand.model.resolution),
                reward=lambda prompts, _latents, _columns: [0.0] * len(prompts),
            )
