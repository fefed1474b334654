"""Flow-GRPO: policy gradients on a flow model by making its sampler stochastic (arXiv:2505.05470).

A rollout samples a group of images a prompt with noise injected at each step. Each step is a
Gaussian transition, so it has a likelihood, and images that beat their group's mean are made more
likely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from baselines.base import Batch, Collected, LossOutput, Method, VelocityModel
from baselines.flow import (
    draw_noise,
    draw_uniform,
    euler_step,
    guided_velocity,
    per_row,
    sampling_sigmas,
    sde_transition,
)
from baselines.flow_grpo_config import FlowGrpoConfig, KlForm
from baselines.flow_matching import velocity_rms
from baselines.groups import group_advantages, group_spread, prompt_ids
from baselines.rewards.base import LatentReward, checked_rewards, reward_name

__all__ = [
    "FlowGrpo",
    "clipped_policy_loss",
    "gaussian_kl_same_std",
    "group_advantages",
    "sde_transition",
    "transition_log_prob",
]


# --- the formulas ---------------------------------------------------------------------------------


def transition_log_prob(next_latents: Tensor, mean: Tensor, transition_std: Tensor) -> Tensor:
    """Gaussian log-density of a step, **averaged** over latent elements.

    Args:
        next_latents: Where the step went; (B, ...). Not differentiated.
        mean: Of the transition; as ``next_latents``.
        transition_std: Of the transition; (B,), positive.

    Returns:
        Nats an element; (B,), float32.

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


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic loss, ``max(-A r, -A clip(r, 1 - c, 1 + c))``. -> (B,)."""
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


# --- the method -----------------------------------------------------------------------------------


class FlowGrpo(Method):
    """Group rollouts, then the clipped policy loss plus ``kl_coeff`` times the KL to the reference.

    The mean is over (row, trained step) items of groups whose rewards differ. Before the first
    update every ratio is exactly 1, and measured, not assumed: rollout and training call one and
    the same function, and the loop makes rollouts in the chunks of rows that it trains on, because
    a matrix product may round differently for another batch size. For the same reason a row of a
    zero-spread group stays in its chunk, with weight 0; the loop skips a chunk of no other rows.

    Args:
        config: Hyper-parameters.
        shift: Of the sampling schedule; SD3.5-M: 3.0.
        latent_shape: Of one row, e.g. (16, 64, 64).
        reward: ``reward(prompts, latents, columns)``, latents at sigma 0; one number a row.
        gather: Concatenates a tensor of all processes in order of rank, e.g.
            ``accelerate.utils.gather``, so that advantages are those of the whole collection.
            Every process holds the same number of rows.
        rank: Of this process in ``gather``.
    """

    def __init__(
        self,
        config: FlowGrpoConfig,
        *,
        shift: float,
        latent_shape: Sequence[int],
        reward: LatentReward,
        gather: Callable[[Tensor], Tensor] = lambda local: local,
        rank: int = 0,
    ) -> None:
        self.config = config
        self.updates_per_collection = config.updates_per_collection
        self.group_size = config.group_size
        self.needs_reference = config.needs_reference
        self.sigmas = sampling_sigmas(config.num_inference_steps, shift)
        self.latent_shape = tuple(latent_shape)
        self.reward = reward
        self.gather = gather
        self.rank = rank

    # -- collection --

    @override
    @torch.no_grad()
    def collect(
        self, velocity: VelocityModel, batch: Batch, generators: Sequence[torch.Generator]
    ) -> Collected:
        rollout = self._rollout(velocity, batch, generators)
        images = rollout.pop("images")
        values = self.reward(batch.prompts, images, batch.columns)
        rewards = torch.tensor(
            checked_rewards(reward_name(self.reward), values, len(batch)),
            dtype=torch.float64,
            device=images.device,
        )
        judged, metrics = self._judge(rewards, prompt_ids(batch.prompts).to(images.device))
        return Collected(batch.with_tensors(**rollout, **judged), metrics, len(batch))

    def _rollout(
        self, velocity: VelocityModel, batch: Batch, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Sample images and keep the trained steps.

        -> ``images``, (B, ...); ``trajectory`` and ``sigmas``, the S + 1 ends of the S trained
        steps, (B, S + 1, ...) and (B, S + 1); ``old_log_prob``, (B, S).
        """
        config = self.config
        device = _device_of(batch)
        latents = draw_noise(self.latent_shape, generators, device)
        start = self._window_start(generators, device)
        sigmas = self.sigmas.to(device)
        trajectory, log_probs = [latents], []
        for step in range(config.num_inference_steps):
            sigma, sigma_next = (sigmas[i].expand(len(batch)) for i in (step, step + 1))
            v = self._velocity(velocity, latents, sigma, batch)
            mean, std = self._transition(latents, v, sigma, sigma_next)
            fresh = draw_noise(self.latent_shape, generators, device)
            stochastic = mean + per_row(std, mean) * fresh
            in_window = (start <= step) & (step < start + config.num_sde_steps)
            latents = torch.where(
                per_row(in_window, mean).bool(),
                stochastic,
                euler_step(latents, v, sigma, sigma_next),
            )
            trajectory.append(latents)
            log_probs.append(transition_log_prob(latents, mean, std))
        trained = start[:, None] + torch.arange(config.num_trained_steps + 1, device=device)
        row = torch.arange(len(batch), device=device)[:, None]
        return {
            "images": latents,
            "trajectory": torch.stack(trajectory, 1)[row, trained],
            "sigmas": sigmas[trained],
            "old_log_prob": torch.stack(log_probs, 1)[row, trained[:, :-1]],
        }

    def _window_start(self, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
        """First stochastic step of each row; 0 where every step is. -> (B,)."""
        config = self.config
        if config.sde_window_size == 0:
            return torch.zeros(len(generators), dtype=torch.long, device=device)
        first, end = config.sde_window_range
        choices = end - config.sde_window_size - first + 1
        return first + (draw_uniform((), generators, device) * choices).long()

    def _judge(
        self, rewards: Tensor, groups: Tensor
    ) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        """Advantages among the rewards of all processes, and which rows enter the loss.

        -> ``advantages`` and ``active``, (B,) of this process; metrics of all.
        """
        config = self.config
        local = slice(self.rank * len(rewards), (self.rank + 1) * len(rewards))
        rewards, groups = self.gather(rewards), self.gather(groups)
        spread, index = group_spread(rewards, groups)
        advantages = group_advantages(rewards, groups, config.global_std)
        clipped = advantages.clamp(-config.advantage_clip, config.advantage_clip)
        active = (spread > 0)[index]
        if not config.skip_zero_std_groups:
            active = torch.ones_like(active)
        zero_spread = (spread == 0).double()
        metrics = {
            "rollout/reward_mean": rewards.mean().item(),
            "rollout/reward_std": rewards.std(correction=0).item(),
            "rollout/num_groups": float(len(spread)),
            "rollout/num_zero_std_groups": zero_spread.sum().item(),
            "rollout/frac_zero_std_groups": zero_spread.mean().item(),
            "rollout/frac_clipped_advantages": (clipped != advantages).double().mean().item(),
        }
        return {"advantages": clipped[local], "active": active[local]}, metrics

    # -- training --

    @override
    def weight(self, batch: Batch) -> float:
        return float(batch["active"].sum().item() * self.config.num_trained_steps)

    @override
    def losses(
        self, velocity: VelocityModel, reference: VelocityModel | None, batch: Batch
    ) -> Iterator[LossOutput]:
        if self.needs_reference and reference is None:
            raise ValueError(
                f"kl_coeff = {self.config.kl_coeff} needs a reference model: keep one, or set 0"
            )
        for step in range(self.config.num_trained_steps):
            yield self._step_term(velocity, reference, batch, step)

    def _step_term(
        self, velocity: VelocityModel, reference: VelocityModel | None, batch: Batch, step: int
    ) -> LossOutput:
        """Loss of one trained step of every row."""
        config = self.config
        latents, next_latents = batch["trajectory"][:, step], batch["trajectory"][:, step + 1]
        sigma, sigma_next = batch["sigmas"][:, step], batch["sigmas"][:, step + 1]
        reference_mean = None
        if self.needs_reference and reference is not None:
            # Before the policy's forward, so that the two do not need memory at the same time.
            with torch.no_grad():
                v_reference = self._velocity(reference, latents, sigma, batch)
                reference_mean, _ = self._transition(latents, v_reference, sigma, sigma_next)
        v = self._velocity(velocity, latents, sigma, batch)
        mean, std = self._transition(latents, v, sigma, sigma_next)
        log_ratio = transition_log_prob(next_latents, mean, std) - batch["old_log_prob"][:, step]
        ratio = log_ratio.exp()
        loss = clipped_policy_loss(ratio, batch["advantages"], config.clip_range)
        items = {
            "train/policy_loss": loss,
            "train/ratio_deviation": (ratio - 1).abs(),
            "train/approx_kl": (ratio - 1) - log_ratio,
            "train/clip_fraction": ((ratio - 1).abs() > config.clip_range).float(),
            "train/velocity_rms": velocity_rms(v),
        }
        if reference_mean is not None:
            spread = _kl_std(std, sigma - sigma_next, config.kl_form)
            items["train/kl"] = gaussian_kl_same_std(mean, reference_mean, spread)
            loss = loss + config.kl_coeff * items["train/kl"]
        active = batch["active"]
        metrics = {name: (item.detach() * active).sum() for name, item in items.items()}
        return LossOutput((loss * active).sum(), metrics)

    def _velocity(
        self, model: VelocityModel, latents: Tensor, sigma: Tensor, batch: Batch
    ) -> Tensor:
        """The policy's velocity; one and the same function in rollout and training."""
        condition, negative = batch.condition, batch.negative_condition
        scale = self.config.guidance_scale
        return guided_velocity(model, latents, sigma, condition, negative, scale)

    def _transition(
        self, latents: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a step at this rollout's noise level."""
        noise_level, sigma_max = self.config.noise_level, self.sigmas[1].item()
        return sde_transition(latents, velocity, sigma, sigma_next, noise_level, sigma_max)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        config = self.config
        # A micro-batch without a group of any spread is rolled out and not trained on.
        is_trained = bool(batch["active"].any())
        return len(batch) * float(
            config.forward_equivalents() if is_trained else config.rollout_forwards
        )


def _kl_std(transition_std: Tensor, step: Tensor, kl_form: KlForm) -> Tensor:
    """What divides the means' difference: the public code uses g where the KL has g sqrt(-dt)."""
    return transition_std if kl_form == "exact" else transition_std / step.sqrt()


def _device_of(batch: Batch) -> torch.device:
    """Where the rows are."""
    tensors = [*batch.condition.values(), *batch.tensors.values()]
    return tensors[0].device if tensors else torch.device("cpu")
