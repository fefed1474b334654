"""Exposure bias: what a model does at states that its training path does not go through.

Training shows the model points of the straight path between an image and its noise; at inference it
sees where sampling led. The distance of a trajectory to the path of the image that it started from
is no measure of that: it falls when a model loses diversity, with which it went between the cells
of a study (r = .5 to .95).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.base import Condition, VelocityModel
from baselines.flow import add_noise, euler_step, guided_velocity, per_row, velocity_mse
from baselines.soar import correction_velocity
from evaluators.devices import on_device


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A model's own sampling for some rows, as images are drawn but in float32."""

    velocity: VelocityModel
    condition: Condition
    negative_condition: Condition
    guidance_scale: float

    @torch.no_grad()
    def follow(self, state: Tensor, sigmas: Tensor) -> Tensor:
        """Where (B, ...) at ``sigmas[0]`` is at ``sigmas[-1]``; (K + 1,), falling."""
        levels = on_device(sigmas, state.device).expand(len(state), -1)
        for sigma, sigma_next in itertools.pairwise(levels.unbind(1)):
            v = guided_velocity(
                self.velocity,
                state,
                sigma,
                self.condition,
                self.negative_condition,
                self.guidance_scale,
            )
            state = euler_step(state, v, sigma, sigma_next)
        return state


@torch.no_grad()
def path_errors(
    velocity: VelocityModel,
    x0: Tensor,
    noise: Tensor,
    state: Tensor,
    sigma: Tensor,
    condition: Condition,
) -> tuple[Tensor, Tensor]:
    """Squared error on the path, and what comes to it at ``state``, against the velocity to ``x0``.

    Of states that other models are asked about as well, so that only the answers differ; without
    guidance, which no velocity of training has. A model steers back better where the second number
    is less and the first is not more: one that looks at its state too little has less of the second
    alone.

    ``x0``, ``noise`` and ``state`` are (B, ...), ``sigma`` (B,), in (0, 1]. -> (B,) each.

    Source: the target is SOAR's, arXiv:2604.12617, here at states of no model that is compared.
    """
    off = velocity_mse(velocity(state, sigma, condition), correction_velocity(state, x0, sigma))
    path = add_noise(x0, noise, sigma)
    on = velocity_mse(velocity(path, sigma, condition), noise - x0)
    return on, off - on


def contraction(sampler: Sampler, state: Tensor, kicks: Sequence[Tensor], sigmas: Tensor) -> Tensor:
    """What is left of each kick at the end of sampling: RMS there over RMS of the kick.

    Below 1 errors shrink on the way, above 1 they grow. A model that always ends in the same image
    has 0: a smaller number is good news where diversity is what it was.

    ``state`` and kicks are (B, ...) at ``sigmas[0]``. -> (len(kicks), B).
    """
    # One after the other: a batch of all would need that many times the memory of sampling.
    end = sampler.follow(state, sigmas)
    return torch.stack(
        [rms(sampler.follow(state + kick, sigmas) - end) / rms(kick) for kick in kicks]
    )


def energy_score(own: Tensor, data: Tensor) -> Tensor:
    """``2 E|x - y| - E|x - x'|`` of states of own sampling and noised data of one prompt and level.

    In units of RMS. It is the energy distance between the two distributions and a constant, the
    spread of the data, which no model changes: least where both are the same. A model whose images
    lose diversity that data have comes nearer to each datum and loses more of its own spread, so
    that its score rises. Prompt by prompt, since one real image of each is enough for it.

    ``own`` is (M, B, ...), ``data`` (J, B, ...), M >= 2. -> (B,).

    Source: Gneiting and Raftery 2007, "Strictly proper scoring rules", section 4.3.
    """
    between = [rms(x - y) for x, y in itertools.product(own, data)]
    within = [rms(x - y) for x, y in itertools.combinations(own, 2)]
    return 2 * torch.stack(between).mean(0) - torch.stack(within).mean(0)


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
        norms.append(rms(velocity(add_noise(x0, noise, level), level, condition)))
    return torch.stack(norms).mean(0)


def scaled(direction: Tensor, size: float) -> Tensor:
    """Each row of ``direction``, (B, ...), with an RMS of ``size``."""
    return direction * per_row(size / rms(direction), direction)


def rms(value: Tensor) -> Tensor:
    """Root of the mean square over everything but the batch. (B, ...) -> (B,)."""
    # A bfloat16 model gives bfloat16 velocities: too few digits for a mean of many squares.
    return value.float().square().flatten(1).mean(1).sqrt()
