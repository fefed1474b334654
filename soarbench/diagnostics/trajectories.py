"""How far inference leaves the training path: the exposure bias that SOAR is about, measured.

Training shows the model points of the straight path between an image and its noise; at inference it
sees where its own steps led. Both are compared here on real images that were not trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.base import Condition, VelocityModel
from baselines.flow import add_noise, euler_step, guided_velocity


@torch.no_grad()
def path_deviation(
    velocity: VelocityModel,
    x0: Tensor,
    noise: Tensor,
    sigmas: Tensor,
    condition: Condition,
    negative_condition: Condition,
    guidance_scale: float,
) -> Tensor:
    """RMS distance of the model's own trajectory from the path it was put on at ``sigmas[0]``.

    ``x0`` and ``noise`` are (B, ...), ``sigmas`` fall, (K + 1,). -> (B, K + 1), latent units; the
    first column is 0.
    """
    levels = sigmas.to(x0.device).expand(len(x0), -1)
    state = add_noise(x0, noise, levels[:, 0])
    deviations = [torch.zeros(len(x0), device=x0.device)]
    for sigma, sigma_next in itertools.pairwise(levels.unbind(1)):
        v = guided_velocity(velocity, state, sigma, condition, negative_condition, guidance_scale)
        state = euler_step(state, v, sigma, sigma_next)
        deviations.append(_rms(state - add_noise(x0, noise, sigma_next)))
    return torch.stack(deviations, dim=1)


@torch.no_grad()
def velocity_norm(
    velocity: VelocityModel,
    x0: Tensor,
    noise: Tensor,
    sigmas: Sequence[float],
    condition: Condition,
) -> Tensor:
    """RMS of the model's velocity on the path, without guidance, mean over levels. -> (B,)."""
    norms = []
    for sigma in sigmas:
        level = torch.full((len(x0),), sigma, device=x0.device)
        norms.append(_rms(velocity(add_noise(x0, noise, level), level, condition)))
    return torch.stack(norms).mean(0)


def _rms(value: Tensor) -> Tensor:
    """Root of the mean square over everything but the batch. (B, ...) -> (B,)."""
    # A bfloat16 model gives bfloat16 velocities: too few digits for a mean of many squares.
    return value.float().square().flatten(1).mean(1).sqrt()
