"""AWM, advantage weighted matching: a policy gradient on pre-training's loss (arXiv:2509.25050).

How well the model matches an image's own path stands for the image's log-probability, so that
policy and pre-training share one objective.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from baselines.awm_config import AwmConfig, Weighting
from baselines.base import Batch, Generators, Policies, VelocityModel
from baselines.flow import add_noise, velocity_mse
from baselines.forward_process import ForwardProcess, Point
from baselines.group_method import clipped_policy_loss

#: Keep roots of a matching error of 0 differentiable; of the squared error, and its root.
EPS = 1e-10
ROOT_EPS = 1e-5


def matching_log_prob(
    velocity: Tensor, target: Tensor, sigma: Tensor, weighting: Weighting, power: float
) -> Tensor:
    """An image's log-probability, as ``m = mean((velocity - target)^2)`` stands for it. -> (B,).

    ``uniform`` is -m, ``sigma`` and ``sigma_squared`` that times the level or its square,
    ``huber`` is ``-(sqrt(m + 1e-10) - 1e-5) sigma`` and ``ghuber``
    ``-((m + 1e-10)^power - 1e-10^power) sigma / power``. ``velocity`` and ``target``, the path's
    ``noise - x0``, are (B, ...), ``sigma`` is (B,). ``ValueError`` for another weighting.

    Source: methods.md, AWM; golden ``awm``.
    """
    error, level = velocity_mse(velocity, target), sigma.float()
    match weighting:
        case "uniform":
            return -error
        case "sigma":
            return -error * level
        case "sigma_squared":
            return -error * level.square()
        case "huber":
            return -((error + EPS).sqrt() - ROOT_EPS) * level
        case "ghuber":
            return -((error + EPS).pow(power) - math.pow(EPS, power)) * level / power
        case _:
            raise ValueError(
                f"weighting {weighting!r} is unknown: choose uniform, sigma, sigma_squared, huber "
                "or ghuber"
            )


class Awm(ForwardProcess):
    """The clipped policy loss on ratios of ``matching_log_prob``, and distances to two policies.

    Before the first update of a collection every ratio is exactly 1.
    """

    config: AwmConfig

    @override
    def _sampling_policy(self, policies: Policies) -> VelocityModel:
        return policies.trained

    @override
    def _rollout(
        self, policies: Policies, batch: Batch, generators: Generators
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0, rollout = super()._rollout(policies, batch, generators)
        log_probs = []
        for level in range(self.config.num_levels):
            sigma, noise = rollout["sigmas"][:, level], rollout["noise"][:, level]
            latents = add_noise(x0, noise, sigma)
            v = self._velocity(policies.trained, latents, sigma, batch)
            log_probs.append(self._log_prob(v, x0, noise, sigma))
        return x0, {**rollout, "old_log_prob": torch.stack(log_probs, 1)}

    def _log_prob(self, velocity: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        config, target = self.config, noise.float() - x0.float()
        return matching_log_prob(velocity, target, sigma, config.weighting, config.power)

    @override
    def _loss(self, point: Point, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config, old = self.config, point.old_log_prob
        assert old is not None
        log_prob = self._log_prob(point.velocity, point.x0, point.noise, point.sigma)
        log_ratio = log_prob - old
        ratio = log_ratio.exp()
        loss = clipped_policy_loss(ratio, advantages, config.clip_range)
        items = {
            "train/policy_loss": loss,
            "train/ratio_deviation": (ratio - 1).abs(),
            "train/approx_kl": (ratio - 1) - log_ratio,
            "train/clip_fraction": ((ratio - 1).abs() > config.clip_range).float(),
        }
        if point.old_velocity is not None:
            items["train/ema_kl"] = velocity_mse(point.velocity, point.old_velocity)
            loss = loss + config.ema_kl_coeff * items["train/ema_kl"]
        return loss, items
