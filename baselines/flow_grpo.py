"""Flow-GRPO: policy gradients on a flow model by making its sampler stochastic (arXiv:2505.05470).

Each step of a rollout is a Gaussian transition, so it has a likelihood, and images that beat the
mean of their prompt's group are made more likely.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from baselines.base import Batch, Generators, LossOutput, Policies, VelocityModel
from baselines.flow import (
    cps_transition,
    draw_noise,
    draw_uniform,
    euler_step,
    guided_velocity,
    per_row,
    sde_transition,
)
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.flow_matching import velocity_rms
from baselines.group_method import AdvantageMethod, clipped_policy_loss, masked_sum
from baselines.groups import group_advantages as group_advantages
from evaluators.devices import on_device


def transition_log_prob(next_latents: Tensor, mean: Tensor, transition_std: Tensor) -> Tensor:
    """Gaussian log-density of a step, **averaged** over latent elements. -> (B,), nats an element.

    ``next_latents``, where the step went, (B, ...), is not differentiated; ``transition_std`` is
    (B,), positive.

    Source: methods.md, Flow-GRPO; golden ``flow_grpo_sde``.
    """
    std = per_row(transition_std, mean)
    error = (next_latents.detach().float() - mean.float()).square()
    log_density = -error / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return log_density.flatten(1).mean(1)


def gaussian_kl_same_std(mean: Tensor, reference_mean: Tensor, std: Tensor) -> Tensor:
    """KL of two Gaussians that share ``std``, (B,), averaged over latent elements. -> (B,)."""
    scaled = (mean.float() - reference_mean.float()) / per_row(std, mean)
    return 0.5 * scaled.square().flatten(1).mean(1)


def _put(latents: Tensor, trajectory: Tensor, place: Tensor) -> None:
    """Put each row's latents at its place, (B,), of a trajectory, (B, S + 1, ...), if it has it."""
    row = torch.arange(len(latents), device=latents.device)
    nearest = place.clamp(0, trajectory.shape[1] - 1)
    kept = trajectory[row, nearest]
    is_kept = per_row(place != nearest, latents).bool()
    trajectory[row, nearest] = torch.where(is_kept, kept, latents)


class FlowGrpo(AdvantageMethod):
    """Group rollouts, then the clipped policy loss plus ``kl_coeff`` times the KL to the reference.

    The mean is over (row, trained step) items of groups whose rewards differ. Before the first
    update every ratio is exactly 1.
    """

    config: FlowGrpoConfig

    @override
    def _rollout(
        self, policies: Policies, batch: Batch, generators: Generators
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sample images and keep the trained steps.

        -> Latents at sigma 0, (B, ...); and ``trajectory`` and ``sigmas``, the S + 1 ends of the S
        trained steps, (B, S + 1, ...) and (B, S + 1), and ``old_log_prob``, (B, S).
        """
        config, shape = self.config, self.world.latent_shape
        device = self._device(batch)
        latents = draw_noise(shape, generators, device)
        start = self._window_start(generators, device)
        sigmas = on_device(self.sigmas, device)
        trajectory = latents.new_empty(len(batch), config.num_trained_steps + 1, *shape)
        log_probs = []
        for step in range(config.num_inference_steps):
            _put(latents, trajectory, step - start)
            sigma, sigma_next = (sigmas[i].expand(len(batch)) for i in (step, step + 1))
            v, mean, std = self._transition(policies.trained, latents, sigma, sigma_next, batch)
            # Drawn outside the window, too: a row's later draws do not depend on where it lies.
            stochastic = mean + per_row(std, mean) * draw_noise(shape, generators, device)
            in_window = (start <= step) & (step < start + config.num_sde_steps)
            ode = euler_step(latents, v, sigma, sigma_next)
            latents = torch.where(per_row(in_window, mean).bool(), stochastic, ode)
            log_probs.append(transition_log_prob(latents, mean, std))
        _put(latents, trajectory, config.num_inference_steps - start)
        trained = start[:, None] + torch.arange(config.num_trained_steps + 1, device=device)
        return latents, {
            "trajectory": trajectory,
            "sigmas": sigmas[trained],
            "old_log_prob": torch.stack(log_probs, 1).gather(1, trained[:, :-1]),
        }

    def _window_start(self, generators: Generators, device: torch.device) -> Tensor:
        """First stochastic step of each row; 0 where every step is. -> (B,)."""
        config = self.config
        if config.sde_window_size == 0:
            return torch.zeros(len(generators), dtype=torch.long, device=device)
        first, end = config.sde_window_range
        choices = end - config.sde_window_size - first + 1
        return first + (draw_uniform((), generators, device) * choices).long()

    @override
    def weight(self, batch: Batch) -> float:
        return super().weight(batch) * self.config.num_trained_steps

    @override
    def losses(self, policies: Policies, batch: Batch) -> Iterator[LossOutput]:
        policies = replace(policies, reference=self._reference(policies))
        for step in range(self.config.num_trained_steps):
            yield self._step_term(policies, batch, step)

    def _step_term(self, policies: Policies, batch: Batch, step: int) -> LossOutput:
        """Loss of one trained step of every row."""
        config = self.config
        latents, next_latents = batch["trajectory"][:, step], batch["trajectory"][:, step + 1]
        sigma, sigma_next = batch["sigmas"][:, step], batch["sigmas"][:, step + 1]
        point = (latents, sigma, sigma_next, batch)
        reference_mean = None
        if policies.reference is not None:
            # Before the policy's forward, so that the two do not need memory at the same time.
            with torch.no_grad():
                _, reference_mean, _ = self._transition(policies.reference, *point)
        v, mean, std = self._transition(policies.trained, *point)
        log_ratio = transition_log_prob(next_latents, mean, std) - batch["old_log_prob"][:, step]
        ratio = log_ratio.exp()
        loss = clipped_policy_loss(ratio, batch["advantages"], config.clip_range)
        items = {
            "train/policy_loss": loss,
            "train/ratio_deviation": (ratio - 1).abs(),
            # Schulman's estimator: never below 0, unlike the mean of -log_ratio.
            "train/approx_kl": (ratio - 1) - log_ratio,
            "train/clip_fraction": ((ratio - 1).abs() > config.clip_range).float(),
            "train/velocity_rms": velocity_rms(v),
        }
        if config.rollout_batch_size is not None and batch.update == 0:
            # The policy is still the rollout's; what differs is how another batch size rounds.
            items["train/first_ratio_deviation"] = items["train/ratio_deviation"]
            items["train/first_clip_fraction"] = items["train/clip_fraction"]
        if reference_mean is not None:
            # The public code divides by g where the KL of the transitions has g sqrt(-dt).
            is_exact = config.kl_form == "exact" or config.step_kind == "cps"
            spread = std if is_exact else std / (sigma - sigma_next).sqrt()
            items["train/kl"] = gaussian_kl_same_std(mean, reference_mean, spread)
            loss = loss + config.kl_coeff * items["train/kl"]
        is_last = step == config.num_trained_steps - 1
        return masked_sum(loss, items, batch["active"], is_last=is_last)

    # One function for rollout and training, and by default the loop rolls out in the parts that it
    # trains on: a matrix product may round differently for another batch size, and the first
    # ratios, which are measured and not assumed, would not be 1.
    def _transition(
        self, model: VelocityModel, latents: Tensor, sigma: Tensor, sigma_next: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A step of the policy: guided velocity, and mean and standard deviation of where to."""
        config, condition, negative = self.config, batch.condition, batch.negative_condition
        v = guided_velocity(model, latents, sigma, condition, negative, config.guidance_scale)
        if config.step_kind == "cps":
            return v, *cps_transition(latents, v, sigma, sigma_next, config.noise_level)
        sigma_max = self.sigmas[1].item()
        return v, *sde_transition(latents, v, sigma, sigma_next, config.noise_level, sigma_max)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        # A micro-batch without a group of any spread is rolled out and not trained on.
        config, is_trained = self.config, bool(batch["active"].any())
        each = config.forward_equivalents() if is_trained else config.rollout_forwards
        return float(len(batch) * each)
