"""SOAR written the obvious way: the oracle for loss and gradient, and for what ours saves.

Shares nothing with ``baselines.soar`` but the draws.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from baselines.base import Batch, VelocityModel
from baselines.soar_config import SoarConfig


def naive_soar_loss(
    velocity: VelocityModel, batch: Batch, config: SoarConfig, sigma_max: float
) -> Tensor:
    """Loss of rows that ``Soar.collect`` returned, by one graph. -> ()."""
    x0, noise = batch["x0"], batch["noise"]
    shape = (-1,) + (1,) * (x0.ndim - 1)
    sigma, sigma_next = batch["sigma"].view(shape), batch["sigma_next"].view(shape)

    latents = (1 - sigma) * x0 + sigma * noise
    main = velocity(latents, batch["sigma"], batch.condition)
    total = ((main - (noise - x0)) ** 2).flatten(1).mean(1).sum()
    count = float(len(batch))

    # Evaluated a second time and with a graph, as HY-SOAR does: 23 evaluations an update for 22.
    cond = velocity(latents, batch["sigma"], batch.condition)
    uncond = velocity(latents, batch["sigma"], batch.negative_condition)
    v = uncond + config.guidance_scale * (cond - uncond)
    for path in range(config.num_rollout_paths):
        if path == 0:
            x_off = latents + (sigma_next - sigma) * v
            if not config.off_path:
                x_off = (1 - sigma_next) * x0 + sigma_next * noise
        else:
            fresh = batch["path_noise"][:, path - 1]
            x_off = _naive_step(latents, v, sigma, sigma_next, config, sigma_max, fresh)
        endpoint = noise if config.shared_noise else batch["endpoint"][:, path]
        # One by one, and every graph lives until the one backward.
        for point in range(config.num_aux_points):
            sigma_aux = batch["sigma_aux"][:, path, point]
            if not config.renoise:
                sigma_aux = batch["sigma_next"]
            level = sigma_aux.view(shape)
            alpha = (level - sigma_next) / (1 - sigma_next)
            x_aux = ((1 - alpha) * x_off + alpha * endpoint).detach()
            target = (x_aux - x0) / level
            error = (velocity(x_aux, sigma_aux, batch.condition) - target) ** 2
            for row, row_error in enumerate(error.flatten(1).mean(1)):
                # A stochastic step that reaches the clean end has no noise to draw: no such path;
                # nor is there a way back from there for a point that stays.
                is_clean = batch["t0"][row] <= 1 / config.num_inference_steps
                if not is_clean or (path == 0 and config.renoise):
                    total = total + config.aux_weight * row_error
                    count = count + config.aux_weight
    return total / count


def _naive_step(
    x: Tensor,
    v: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    config: SoarConfig,
    sigma_max: float,
    fresh: Tensor,
) -> Tensor:
    """The four stochastic steps, transcribed from methods.md."""
    a, dt = config.noise_scale, sigma_next - sigma
    if config.step_kind == "flow_sde":
        # sigma / (1 - sigma) has no value at pure noise: the grid's second level stands in.
        below_one = torch.where(sigma == 1, torch.full_like(sigma, sigma_max), sigma)
        g = a * torch.sqrt(sigma / (1 - below_one))
        mean = x * (1 + g**2 / (2 * sigma) * dt) + v * (1 + g**2 * (1 - sigma) / (2 * sigma)) * dt
        return mean + g * torch.sqrt(-dt) * fresh
    if config.step_kind == "cps":
        s = sigma_next * math.sin(a * math.pi / 2)
        x0_hat, noise_hat = x - sigma * v, x + (1 - sigma) * v
        kept = torch.sqrt(sigma_next**2 - s**2)
        return (1 - sigma_next) * x0_hat + kept * noise_hat + s * fresh
    if config.step_kind == "sde":
        return (1 - sigma_next) * (x - sigma * v) + sigma_next * fresh
    return x + v * dt + a * torch.sqrt(dt.abs()) * fresh
