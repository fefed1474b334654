"""SOAR: self-correction for optimal alignment and refinement (arXiv:2604.12617).

Beside the flow-matching term, the model takes one step of its own, is put back on the ray to the
same noise, and learns the velocity that leads from there to the clean image. No reward is involved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from baselines.base import (
    Batch,
    Collected,
    Generators,
    LossOutput,
    Method,
    Policies,
    Schedule,
    VelocityModel,
)
from baselines.flow import (
    add_noise,
    classifier_free_guidance,
    draw_noise,
    draw_uniform,
    euler_step,
    guided_velocity,
    per_row,
    stochastic_step,
    velocity_mse,
)
from baselines.flow_matching import draw_training_point, on_trajectory_term
from baselines.soar_config import SoarConfig
from evaluators.devices import on_device


def renoise(x_off: Tensor, noise: Tensor, sigma_from: Tensor, sigma_to: Tensor) -> Tensor:
    """Move ``x_off`` from ``sigma_from`` up to ``sigma_to`` along the ray to ``noise``.

    ``alpha = (sigma_to - sigma_from) / (1 - sigma_from)``, ``(1 - alpha) x_off + alpha noise``.
    Stays on the training path when ``x_off`` is on it: the result then equals
    ``add_noise(x0, noise, sigma_to)``. -> as ``x_off``, float32.

    Args:
        x_off: Latents at ``sigma_from``; (B, ...), scaled VAE latents.
        noise: The endpoint used to build the pair; as ``x_off``.
        sigma_from: Current level; (B,), in [0, 1).
        sigma_to: Target level; (B,), in [sigma_from, 1].

    Source: arXiv:2604.12617, re-noising step; methods.md, SOAR step 3.
    """
    level_from, level_to = per_row(sigma_from, x_off), per_row(sigma_to, x_off)
    alpha = (level_to - level_from) / (1 - level_from)
    return (1 - alpha) * x_off.float() + alpha * noise.float()


def correction_velocity(x_aux: Tensor, x0: Tensor, sigma_aux: Tensor) -> Tensor:
    """Velocity ``(x_aux - x0) / sigma_aux`` from an off-path point straight to the clean image.

    ``x_aux`` and ``x0`` are (B, ...), ``sigma_aux`` (B,), in (0, 1]. On the path this is
    ``noise - x0``. -> as ``x_aux``, float32.

    Source: arXiv:2604.12617, correction target v_corr; methods.md, SOAR step 4.
    """
    # Never a division by 0: the training grid, below sigma_aux, ends at about shift / n.
    return (x_aux.float() - x0.float()) / per_row(sigma_aux, x_aux)


def sample_renoise_sigmas(sigma_next: Tensor, uniform: Tensor) -> Tensor:
    """Levels ``~ U(sigma_next, 1)`` of auxiliary points, from draws in [0, 1), (B, M, N)."""
    lowest = per_row(sigma_next, uniform)
    return lowest + uniform * (1 - lowest)


class Soar(Method):
    """``loss = (sum main + lambda sum aux) / (B + lambda B_aux)``, the counts being global.

    ``schedule`` is the model's; steps are those of methods.md.
    """

    needs_rollout = False  # beside that of the loss, which is of every row

    def __init__(self, config: SoarConfig, *, schedule: Schedule) -> None:
        self.config = config
        self.schedule = schedule

    @override
    def collect(self, policies: Policies, batch: Batch, generators: Generators) -> Collected:
        dropout = self.config.condition_dropout
        point = draw_training_point(
            batch, generators, schedule=self.schedule, condition_dropout=dropout
        )
        if self.config.aux_weight == 0:
            return Collected(point)  # SFT, bit for bit
        return Collected(self._draw_rollout(point, generators))

    def _draw_rollout(self, batch: Batch, generators: Generators) -> Batch:
        """Draw everything random of steps 2 and 3.

        Adds ``sigma_steps``, (B, R), where each of the rollout's R steps ends, ``sigma_next``,
        (B,), the last of them, ``path_exists``, (B, M), on the CPU as ``t0`` is, ``sigma_aux``,
        (B, M, N), ``path_noise``, (B, M - 1, ...), ``later_noise``, (B, R - 1, M - 1, ...), and
        ``endpoint``, (B, M, ...), where it is not the row's noise.
        """
        config, x0 = self.config, batch["x0"]
        counts = range(1, config.rollout_steps + 1)
        spans = torch.tensor([count / config.num_inference_steps for count in counts])
        ends = (batch["t0"][:, None] - spans).clamp(min=0)
        t1 = ends[:, -1]
        shape = x0.shape[1:]
        levels = [self.schedule.training_sigmas(t, shape) for t in ends.unbind(1)]
        sigma_steps = on_device(torch.stack(levels, dim=1), x0.device)
        sigma_next = sigma_steps[:, -1]
        paths, points = config.num_rollout_paths, config.num_aux_points
        uniform = draw_uniform((paths, points), generators, x0.device)
        # Stochastic paths are skipped where the step reaches the clean boundary; path 0 is the ODE.
        path_exists = (t1 > 0)[:, None].expand(-1, paths).clone()
        if config.renoise:
            path_exists[:, 0] = True
        else:
            uniform = torch.zeros_like(uniform)
        drawn = batch.with_tensors(
            sigma_steps=sigma_steps,
            sigma_next=sigma_next,
            sigma_aux=sample_renoise_sigmas(sigma_next, uniform),
            path_exists=path_exists,
            path_noise=draw_noise((paths - 1, *x0.shape[1:]), generators, x0.device),
        )
        # Last: the published method's draws are then the same ones.
        if not config.shared_noise:
            endpoint = draw_noise((paths, *x0.shape[1:]), generators, x0.device)
            drawn = drawn.with_tensors(endpoint=endpoint)
        size = (config.rollout_steps - 1, paths - 1, *x0.shape[1:])
        return drawn.with_tensors(later_noise=draw_noise(size, generators, x0.device))

    def _num_aux(self, batch: Batch) -> float:
        """Auxiliary points that exist, B_aux."""
        return float(batch["path_exists"].sum().item() * self.config.num_aux_points)

    @override
    def weight(self, batch: Batch) -> float:
        if self.config.aux_weight == 0:
            return float(len(batch))
        return len(batch) + self.config.aux_weight * self._num_aux(batch)

    @override
    def losses(self, policies: Policies, batch: Batch) -> Iterator[LossOutput]:
        velocity = policies.trained
        # Step 1: the SFT term. Metrics are means over their own items, not over the loss's.
        scale = self.weight(batch) / len(batch)
        main, velocity_cond = on_trajectory_term(velocity, batch, metric_scale=scale)
        if self.config.aux_weight == 0:
            yield replace(main, is_last=True)
            return
        yield main
        x_off = self._rollout(velocity, velocity_cond, batch)
        paths, points = range(self.config.num_rollout_paths), range(self.config.num_aux_points)
        slots, chunk = list(itertools.product(paths, points)), self.config.points_at_once
        # The public code keeps the graphs of all points until one backward; the sum is the same.
        for first in range(0, len(slots), chunk):
            term = self._aux_term(velocity, x_off, batch, slots[first : first + chunk])
            yield replace(term, is_last=first + chunk >= len(slots))

    @torch.no_grad()
    def _rollout(self, velocity: VelocityModel, velocity_cond: Tensor, batch: Batch) -> Tensor:
        """Step 2: from the training point on every path. -> ``x_off``, (B, M, ...)."""
        config, sigma = self.config, batch["sigma"]
        if not config.off_path:
            return add_noise(batch["x0"], batch["noise"], batch["sigma_next"]).unsqueeze(1)
        latents = add_noise(batch["x0"], batch["noise"], sigma)
        # Of the main term, where the public code evaluates the same once more, with a graph.
        v_cfg = velocity_cond
        if config.guidance_scale != 1:
            uncond = velocity(latents, sigma, batch.negative_condition).float()
            v_cfg = classifier_free_guidance(uncond, velocity_cond.float(), config.guidance_scale)
        levels = (sigma, *batch["sigma_steps"].unbind(1))
        x = [
            self._stepped(latents, v_cfg, levels[0], levels[1], fresh)
            for fresh in (None, *batch["path_noise"].unbind(1))
        ]
        for step, noise in enumerate(batch["later_noise"].unbind(1), start=1):
            level, end = levels[step], levels[step + 1]
            v = [self._guided(velocity, at, level, batch) for at in x]
            fresh_of = (None, *noise.unbind(1))
            x = [
                self._stepped(at, v_at, level, end, fresh)
                for at, v_at, fresh in zip(x, v, fresh_of, strict=True)
            ]
        return torch.stack(x, dim=1)

    def _guided(self, velocity: VelocityModel, at: Tensor, level: Tensor, batch: Batch) -> Tensor:
        conditions = (batch.condition, batch.negative_condition)
        return guided_velocity(velocity, at, level, *conditions, self.config.guidance_scale)

    def _stepped(
        self, latents: Tensor, v: Tensor, sigma: Tensor, end: Tensor, fresh: Tensor | None
    ) -> Tensor:
        """A step of the ODE, or a stochastic one with ``fresh`` noise."""
        if fresh is None:
            return euler_step(latents, v, sigma, end)
        kind, scale = self.config.step_kind, self.config.noise_scale
        sigma_max = self.schedule.sigma_max(latents.shape[1:])
        return stochastic_step(latents, v, sigma, end, kind, scale, sigma_max, fresh)

    def _aux_term(
        self, velocity: VelocityModel, x_off: Tensor, batch: Batch, slots: Sequence[tuple[int, int]]
    ) -> LossOutput:
        """Steps 3 and 4 for some auxiliary points (path m, point n) of every row."""
        x_aux, targets, sigmas = [], [], []
        for path, point in slots:
            sigma_aux = batch["sigma_aux"][:, path, point]
            # The pair's own noise: a new one a path takes GenEval from .78 to .76 (paper, Table 3).
            shared = self.config.shared_noise
            endpoint = batch["noise"] if shared else batch["endpoint"][:, path]
            x = renoise(x_off[:, path], endpoint, batch["sigma_next"], sigma_aux)
            x_aux.append(x)
            targets.append(correction_velocity(x, batch["x0"], sigma_aux))
            sigmas.append(sigma_aux)
        condition = {name: torch.cat([v] * len(slots)) for name, v in batch.condition.items()}
        prediction = velocity(torch.cat(x_aux), torch.cat(sigmas), condition)
        # Points that do not exist are evaluated and weighted 0: they are rare (t0 below 1 / K), and
        # every rank then runs the same forwards, as sharded training requires.
        exists = torch.cat([batch["path_exists"][:, path] for path, _ in slots])
        exists = on_device(exists, prediction.device)
        error_sum = (velocity_mse(prediction, torch.cat(targets)) * exists).sum()
        # Without re-noising a micro-batch may have no point at all.
        scale = self.weight(batch) / max(self._num_aux(batch), 1)
        metrics = {"train/aux_loss": scale * error_sum.detach()}
        return LossOutput(self.config.aux_weight * error_sum, metrics)

    @override
    def forward_equivalents(self, batch: Batch) -> float:
        return len(batch) * self.config.forward_equivalents()
