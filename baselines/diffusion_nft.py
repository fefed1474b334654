"""DiffusionNFT: rewards as a contrast on the forward process (arXiv:2509.16117).

The trained and the old policy together say what better and what worse images would be; each image
pulls at either by how good it is. No likelihood, and any sampler.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from baselines.base import Policies, VelocityModel
from baselines.diffusion_nft_config import DiffusionNftConfig
from baselines.flow import per_row
from baselines.forward_process import ForwardProcess, Point
from baselines.forward_process import old_policy_decay as old_policy_decay

#: Below it the divisor of an endpoint's error does not fall.
SMALLEST_ERROR = 1e-5


def optimality(advantages: Tensor, advantage_clip: float) -> Tensor:
    """Probability that an image is a good one, ``clamp(A / (2 clip) + 1/2, 0, 1)``. -> (B,)."""
    return (advantages / (2 * advantage_clip) + 0.5).clamp(0, 1)


def implicit_velocities(
    velocity: Tensor, old_velocity: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Velocities of the implicit policies, on either side of the old one; as ``velocity``.

    ``positive = beta v + (1 - beta) v_old`` and ``negative = (1 + beta) v_old - beta v``: their
    mean is the old velocity. -> positive, negative.
    """
    v, old = velocity.float(), old_velocity.float()
    return beta * v + (1 - beta) * old, (1 + beta) * old - beta * v


def endpoint_error(latents: Tensor, velocity: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
    """``mean((x - x0)^2) / max(mean|x - x0|, 1e-5)`` of ``x = latents - sigma velocity``. -> (B,).

    The divisor, without gradient, makes rows of every level pull alike. ``latents``, ``velocity``
    and ``x0`` are (B, ...), ``sigma`` is (B,).

    Source: arXiv:2509.16117, adaptive weighting; methods.md, DiffusionNFT.
    """
    endpoint = latents.float() - per_row(sigma, latents) * velocity.float()
    error = (endpoint - x0.float()).flatten(1)
    divisor = error.detach().abs().mean(1).clamp(min=SMALLEST_ERROR)
    return error.square().mean(1) / divisor


def nft_loss(
    latents: Tensor,
    velocity: Tensor,
    old_velocity: Tensor,
    sigma: Tensor,
    x0: Tensor,
    advantages: Tensor,
    advantage_clip: float,
    beta: float,
) -> Tensor:
    """``advantage_clip (r e(positive) + (1 - r) e(negative)) / beta``, r the optimality. -> (B,).

    ``latents``, ``x0`` and velocities are (B, ...), ``sigma`` and ``advantages`` (B,). Where the
    policies are equal, the gradient's direction is ``r - 1/2``.

    Source: arXiv:2509.16117, Algorithm 1; methods.md, DiffusionNFT; golden ``nft``.
    """
    r = optimality(advantages, advantage_clip)
    positive, negative = implicit_velocities(velocity, old_velocity, beta)
    better = endpoint_error(latents, positive, sigma, x0)
    worse = endpoint_error(latents, negative, sigma, x0)
    return advantage_clip * (r * better + (1 - r) * worse) / beta


class DiffusionNft(ForwardProcess):
    """The old policy rolls out; ``nft_loss`` plus the distance to the reference."""

    config: DiffusionNftConfig

    @override
    def _sampling_policy(self, policies: Policies) -> VelocityModel:
        assert policies.old is not None
        return policies.old

    @override
    def _loss(self, point: Point, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config, old = self.config, point.old_velocity
        assert old is not None
        models = (point.latents, point.velocity, old, point.sigma, point.x0)
        loss = nft_loss(*models, advantages, config.advantage_clip, config.beta)
        distance = (point.velocity - old).detach().square().flatten(1).mean(1)
        return loss, {"train/policy_loss": loss, "train/distance_to_old": distance}
