"""Flow matching on images: where on its path a row is trained, and the error there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from baselines.base import Batch, Generators, LossOutput, Schedule, VelocityModel
from baselines.flow import (
    add_noise,
    draw_noise,
    draw_uniform,
    per_row,
    velocity_mse,
)
from evaluators.devices import on_device


def draw_training_point(
    batch: Batch, generators: Generators, *, schedule: Schedule, condition_dropout: float
) -> Batch:
    """Draw where on its path each row, with ``x0``, (B, ...), is trained.

    ``condition_dropout`` is the probability of replacing a row's condition by the empty prompt's.
    -> the rows with ``t0`` ~ sigmoid(N(0, 1)), on the CPU, its level ``sigma``, (B,), and
    ``noise``.
    """
    x0 = batch["x0"]
    # Stays where it is drawn: what depends on it, as how many points SOAR has, waits for no GPU.
    t0 = draw_noise((), generators, torch.device("cpu")).sigmoid()
    noise = draw_noise(x0.shape[1:], generators, x0.device)
    if condition_dropout > 0:
        # For each row; the public code draws once for a whole batch (methods.md: a fault).
        dropped = draw_uniform((), generators, x0.device) < condition_dropout
        condition = {
            name: torch.where(per_row(dropped, value).bool(), batch.negative_condition[name], value)
            for name, value in batch.condition.items()
        }
        batch = replace(batch, condition=condition)
    sigma = schedule.training_sigmas(t0, x0.shape[1:])
    return batch.with_tensors(t0=t0, sigma=on_device(sigma, x0.device), noise=noise)


def on_trajectory_term(
    velocity: VelocityModel, batch: Batch, metric_scale: float = 1.0
) -> tuple[LossOutput, Tensor]:
    """Error of the model at (t0, sigma) against the path's velocity ``noise - x0``.

    ``batch`` is of ``draw_training_point``. -> the term, and the model's velocity, detached.
    """
    latents = add_noise(batch["x0"], batch["noise"], batch["sigma"])
    prediction = velocity(latents, batch["sigma"], batch.condition)
    # Logit-normal sampling of t0 has loss weight 1 in the public code, so none appears here.
    error_sum = velocity_mse(prediction, batch["noise"].float() - batch["x0"].float()).sum()
    prediction = prediction.detach()
    # metric_scale: the loop divides metrics by the loss's weight, which need not be their rows.
    metrics = {
        "train/main_loss": metric_scale * error_sum.detach(),
        "train/velocity_rms": metric_scale * velocity_rms(prediction).sum(),
    }
    return LossOutput(error_sum, metrics), prediction


def velocity_rms(velocity: Tensor) -> Tensor:
    """Root mean square over latent elements, which shows a collapsing model. -> (B,)."""
    return velocity.float().square().flatten(1).mean(1).sqrt()
