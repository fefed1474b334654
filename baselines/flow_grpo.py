"""Flow-GRPO: policy gradients on a flow model by making its sampler stochastic (arXiv:2505.05470).

Each step of a rollout is a Gaussian transition, so it has a likelihood, and images that beat the
mean of their prompt's group are made more likely.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from baselines.base import Batch, Collected, Generators, LossOutput, Method, VelocityModel, World
from baselines.flow import (
    draw_noise,
    draw_uniform,
    euler_step,
    guided_velocity,
    per_row,
    sampling_sigmas,
    sde_transition,
)
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.flow_matching import velocity_rms
from baselines.groups import group_advantages, group_spread, prompt_ids
from baselines.judged_rollouts import Part, rewards_of
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


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic loss, ``max(-A r, -A clip(r, 1 - c, 1 + c))``. -> (B,)."""
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def _put(latents: Tensor, trajectory: Tensor, place: Tensor) -> None:
    """Put each row's latents at its place, (B,), of a trajectory, (B, S + 1, ...), if it has it."""
    row = torch.arange(len(latents), device=latents.device)
    nearest = place.clamp(0, trajectory.shape[1] - 1)
    kept = trajectory[row, nearest]
    is_kept = per_row(place != nearest, latents).bool()
    trajectory[row, nearest] = torch.where(is_kept, kept, latents)


class FlowGrpo(Method):
    """Group rollouts, then the clipped policy loss plus ``kl_coeff`` times the KL to the reference.

    The mean is over (row, trained step) items of groups whose rewards differ. Before the first
    update every ratio is exactly 1.
    """

    def __init__(self, config: FlowGrpoConfig, world: World) -> None:
        assert world.reward is not None
        self.config = config
        self.updates_per_collection = config.updates_per_collection
        self.group_size = config.group_size
        self.needs_reference = config.needs_reference
        self.rollout_batch_size = config.rollout_batch_size
        self.sigmas = sampling_sigmas(config.num_inference_steps, world.shift)
        self.world = world

    @override
    @torch.no_grad()
    def collect(self, velocity: VelocityModel, batch: Batch, generators: Generators) -> Collected:
        rollout: dict[str, Tensor] = {}
        parts = self._parts(velocity, batch, generators, into=rollout)
        values = rewards_of(self.world, batch, parts)
        device = rollout["trajectory"].device
        rewards = on_device(torch.tensor(values, dtype=torch.float64), device)
        judged, metrics = self._judge(rewards, on_device(prompt_ids(batch.prompts), device))
        return Collected(batch.with_tensors(**rollout, **judged), metrics, len(batch))

    def _parts(
        self,
        velocity: VelocityModel,
        batch: Batch,
        generators: Generators,
        *,
        into: dict[str, Tensor],
    ) -> Iterator[Part]:
        """Roll out part by part; what is trained on goes ``into`` tensors of all rows."""
        for rows in batch.parts or [range(len(batch))]:
            part = batch.select(rows)
            latents, rollout = self._rollout(velocity, part, [generators[row] for row in rows])
            index = on_device(torch.tensor(rows), latents.device)
            for name, value in rollout.items():
                if name not in into:
                    into[name] = value.new_empty(len(batch), *value.shape[1:])
                into[name][index] = value
            yield rows, latents

    def _rollout(
        self, velocity: VelocityModel, batch: Batch, generators: Generators
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sample images and keep the trained steps.

        -> Latents at sigma 0, (B, ...); and ``trajectory`` and ``sigmas``, the S + 1 ends of the S
        trained steps, (B, S + 1, ...) and (B, S + 1), and ``old_log_prob``, (B, S).
        """
        config, shape = self.config, self.world.latent_shape
        tensors = (*batch.condition.values(), *batch.tensors.values())
        device = tensors[0].device if tensors else torch.device("cpu")
        latents = self._start(batch, draw_noise(shape, generators, device))
        start = self._window_start(generators, device)
        sigmas = on_device(self.sigmas, device)
        trajectory = latents.new_empty(len(batch), config.num_trained_steps + 1, *shape)
        log_probs = []
        for step in range(config.num_inference_steps):
            _put(latents, trajectory, step - start)
            sigma, sigma_next = (sigmas[i].expand(len(batch)) for i in (step, step + 1))
            v, mean, std = self._transition(velocity, latents, sigma, sigma_next, batch)
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

    def _start(self, batch: Batch, noise: Tensor) -> Tensor:
        """What rollouts start from: each row's own ``noise``, or that of its group's first row."""
        if not self.config.same_latents:
            return noise
        firsts = [position - position % self.group_size for position in batch.positions]
        # Drawn again, and not taken from that row, which may be on another process.
        generators = [self.world.generator_at(first) for first in firsts]
        return draw_noise(noise.shape[1:], generators, noise.device)

    def _window_start(self, generators: Generators, device: torch.device) -> Tensor:
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

        -> ``advantages`` and, on the CPU, ``active``, (B,) of this process; metrics of all.
        """
        config, rank = self.config, self.world.rank
        local = slice(rank * len(rewards), (rank + 1) * len(rewards))
        # Groups may be spread over processes, and global_std is of the whole collection.
        device = rewards.device
        # Processes gather on the GPU; what follows looks at single values, each of which would wait
        # for it, and so would whoever asks later which rows are active.
        rewards, groups = self.world.gather(rewards).cpu(), self.world.gather(groups).cpu()
        spread, index = group_spread(rewards, groups)
        advantages = group_advantages(rewards, groups, config.global_std)
        clipped = advantages.clamp(-config.advantage_clip, config.advantage_clip)
        # Whole groups, and a global mean: the public code drops single rows, refills at random and
        # divides by what is left on each GPU. A row that is left out stays in its chunk, with
        # weight 0, since another batch size could round differently; see _transition.
        active = (spread > 0)[index] | (not config.skip_zero_std_groups)
        zero_spread = (spread == 0).double()
        metrics = {
            "rollout/reward_mean": rewards.mean().item(),
            "rollout/reward_std": rewards.std(correction=0).item(),
            "rollout/num_groups": float(len(spread)),
            "rollout/num_zero_std_groups": zero_spread.sum().item(),
            "rollout/frac_zero_std_groups": zero_spread.mean().item(),
            "rollout/frac_clipped_advantages": (clipped != advantages).double().mean().item(),
        }
        return {"advantages": on_device(clipped[local], device), "active": active[local]}, metrics

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
        kept = reference if self.needs_reference else None
        for step in range(self.config.num_trained_steps):
            term = self._step_term(velocity, kept, batch, step)
            yield replace(term, is_last=step == self.config.num_trained_steps - 1)

    def _step_term(
        self, velocity: VelocityModel, reference: VelocityModel | None, batch: Batch, step: int
    ) -> LossOutput:
        """Loss of one trained step of every row."""
        config = self.config
        latents, next_latents = batch["trajectory"][:, step], batch["trajectory"][:, step + 1]
        sigma, sigma_next = batch["sigmas"][:, step], batch["sigmas"][:, step + 1]
        point = (latents, sigma, sigma_next, batch)
        reference_mean = None
        if reference is not None:
            # Before the policy's forward, so that the two do not need memory at the same time.
            with torch.no_grad():
                _, reference_mean, _ = self._transition(reference, *point)
        v, mean, std = self._transition(velocity, *point)
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
            is_exact = config.kl_form == "exact"
            spread = std if is_exact else std / (sigma - sigma_next).sqrt()
            items["train/kl"] = gaussian_kl_same_std(mean, reference_mean, spread)
            loss = loss + config.kl_coeff * items["train/kl"]
        active = on_device(batch["active"], loss.device)
        metrics = {name: (item.detach() * active).sum() for name, item in items.items()}
        return LossOutput((loss * active).sum(), metrics)

    # One function for rollout and training, and by default the loop rolls out in the parts that it
    # trains on: a matrix product may round differently for another batch size, and the first
    # ratios, which are measured and not assumed, would not be 1.
    def _transition(
        self, model: VelocityModel, latents: Tensor, sigma: Tensor, sigma_next: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A step of the policy: guided velocity, and mean and standard deviation of where to."""
        config, condition, negative = self.config, batch.condition, batch.negative_condition
        v = guided_velocity(model, latents, sigma, condition, negative, config.guidance_scale)
        sigma_max = self.sigmas[1].item()
        return v, *sde_transition(latents, v, sigma, sigma_next, config.noise_level, sigma_max)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        # A micro-batch without a group of any spread is rolled out and not trained on.
        config, is_trained = self.config, bool(batch["active"].any())
        each = config.forward_equivalents() if is_trained else config.rollout_forwards
        return float(len(batch) * each)
