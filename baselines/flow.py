"""The straight path between data and noise: levels, steps and sampling as pure tensor maths.

Convention, here and everywhere: ``sigma`` in [0, 1] and **sigma = 1 is pure noise** (diffusers,
SD3, FLUX; the opposite of flow_matching's ``t``). ``latents(sigma) = (1 - sigma) x0 + sigma noise``
and ``velocity = d latents / d sigma = noise - x0``. Everything is computed in float32. SD3.5-M's
``shift`` is 3.0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from baselines.base import Condition, Generators, VelocityModel
from baselines.config import NUM_TRAIN_TIMESTEPS, StepKind
from evaluators.devices import on_device


def per_row(value: Tensor | float, like: Tensor) -> Tensor:
    """Shape one number a row, (B,), or a single one, to broadcast over ``like``; float32."""
    # Steps in bfloat16 would lose the small differences of neighbouring levels.
    if not isinstance(value, Tensor):
        rows = torch.full((), value, dtype=torch.float32, device=like.device)
    else:
        rows = on_device(value.float(), like.device)
    return rows.reshape(-1, *(1,) * (like.ndim - 1))


def training_grid(shift: float, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS) -> Tensor:
    """Falling levels ``shift s / (1 + (shift - 1) s)`` of ``s = n/n, ..., 1/n``. -> (n,)."""
    level = torch.arange(num_train_timesteps, 0, -1, dtype=torch.float32) / num_train_timesteps
    return shift * level / (1 + (shift - 1) * level)


def training_sigmas(
    t: Tensor, shift: float, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS
) -> Tensor:
    """Look training times, (B,), 1 = noise, up in the grid: ``index = floor((1 - t) n)``.

    -> (B,), in (0, 1]: the grid ends at its lowest level, and t = 0 gives about ``shift / n``.

    Source: methods.md, "Timestep sampling shared by SFT and SOAR"; golden ``soar_ode``.
    """
    t = torch.as_tensor(t)
    index = ((1 - t) * num_train_timesteps).floor().long().clamp(0, num_train_timesteps - 1)
    return training_grid(shift, num_train_timesteps).to(t.device)[index]


def sampling_sigmas(num_inference_steps: int, shift: float) -> Tensor:
    """Levels that ``FlowMatchEulerDiscreteScheduler`` visits at inference, 1 first and 0 last.

    -> (num_inference_steps + 1,), float32, bit-equal to the scheduler's.
    """
    # diffusers spaces the steps evenly between the ends of the *shifted* training grid and shifts
    # them once more, in float64; images are only comparable with its own if that is repeated.
    grid = training_grid(shift)
    first, last = (grid[i].item() * NUM_TRAIN_TIMESTEPS for i in (0, -1))
    level = np.linspace(first, last, num_inference_steps) / NUM_TRAIN_TIMESTEPS
    shifted = shift * level / (1 + (shift - 1) * level)
    return torch.cat([torch.from_numpy(shifted).float(), torch.zeros(1)])


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Point of the straight path, ``(1 - sigma) x0 + sigma noise``. -> as ``x0``, float32."""
    level = per_row(sigma, x0)
    return (1 - level) * x0.float() + level * noise.float()


def velocity_mse(velocity: Tensor, target: Tensor) -> Tensor:
    """Squared error averaged over latent elements, in float32. -> (B,)."""
    return (velocity.float() - target.float()).square().flatten(1).mean(1)


def euler_step(latents: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Deterministic step ``latents + (sigma_next - sigma) velocity``, in float32."""
    step = per_row(sigma_next, latents) - per_row(sigma, latents)
    return latents.float() + step * velocity.float()


def sde_transition(
    latents: Tensor,
    velocity: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    noise_level: float,
    sigma_max: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Gaussian transition of Flow-GRPO's SDE; its marginals are those of the ODE.

    With ``dt = sigma_next - sigma`` and ``g = noise_level sqrt(sigma / (1 - sigma))``::

        mean = latents (1 + g^2 / (2 sigma) dt) + velocity (1 + g^2 (1 - sigma) / (2 sigma)) dt

    Args:
        latents: Current latents; (B, ...).
        velocity: The model's velocity there; as ``latents``.
        sigma: Current level; (B,), in (0, 1].
        sigma_next: Next level; (B,), below ``sigma``.
        noise_level: Scale a of the noise; 0 is the Euler step.
        sigma_max: Second level of the grid; stands for ``sigma`` in ``1 - sigma`` at sigma = 1.

    Returns:
        Mean, as ``latents``, and standard deviation ``g sqrt(-dt)``, (B,); float32.

    Source: Flow-GRPO, arXiv:2505.05470, SDE sampling; golden ``flow_grpo_sde``.
    """
    x, v = latents.float(), velocity.float()
    level = per_row(sigma, x)
    dt = per_row(sigma_next, x) - level
    # g has a pole at pure noise, where every rollout begins; Flow-GRPO's code does the same.
    remaining = 1 - torch.where(level == 1, per_row(sigma_max, x), level)
    g = noise_level * (level / remaining).sqrt()
    mean = x * (1 + g**2 / (2 * level) * dt) + v * (1 + g**2 * (1 - level) / (2 * level)) * dt
    return mean, (g * (-dt).sqrt()).flatten().expand(len(x))


def cps_transition(
    latents: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, noise_level: float
) -> tuple[Tensor, Tensor]:
    """Gaussian transition that keeps the path's coefficients, whatever part of the noise is fresh.

    With ``x0_hat = latents - sigma velocity``, ``noise_hat = latents + (1 - sigma) velocity`` and
    ``std = sigma_next sin(noise_level pi / 2)``::

        mean = (1 - sigma_next) x0_hat + sqrt(sigma_next^2 - std^2) noise_hat

    ``latents`` and ``velocity`` are (B, ...), ``sigma`` and ``sigma_next`` (B,). -> mean, as
    ``latents``, and standard deviation, (B,); float32.

    Source: methods.md, "Stochastic step kinds", ``cps``.
    """
    x, v = latents.float(), velocity.float()
    level, level_next = per_row(sigma, x), per_row(sigma_next, x)
    x0_hat, noise_hat = x - level * v, x + (1 - level) * v
    std = level_next * math.sin(noise_level * math.pi / 2)
    kept = (level_next**2 - std**2).clamp(min=0).sqrt()
    return (1 - level_next) * x0_hat + kept * noise_hat, std.flatten().expand(len(x))


def stochastic_step(
    latents: Tensor,
    velocity: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    kind: StepKind,
    noise_scale: float,
    sigma_max: Tensor | float,
    noise: Tensor,
) -> Tensor:
    """Step down with fresh noise, by one of four kinds. -> as ``latents``, float32.

    Args:
        latents: Current latents; (B, ...).
        velocity: The model's velocity there; as ``latents``.
        sigma: Current level; (B,), in (0, 1].
        sigma_next: Next level; (B,), not above ``sigma``.
        kind: ``flow_sde`` is Flow-GRPO's step, ``cps`` keeps the path's coefficients, ``sde``
            replaces all predicted noise (``noise_scale`` has no part in it), ``simple`` adds to the
            Euler step. Another is a ``ValueError``.
        noise_scale: Scale a of the noise; at 0 all kinds but ``sde`` are the Euler step.
        sigma_max: As in ``sde_transition``; used by ``flow_sde``.
        noise: Fresh N(0, I); as ``latents``.

    Source: methods.md, "Stochastic step kinds"; golden ``soar_stochastic``.
    """
    x, v, fresh = latents.float(), velocity.float(), noise.float()
    level, level_next = per_row(sigma, x), per_row(sigma_next, x)
    if kind == "flow_sde":
        mean, std = sde_transition(x, v, sigma, sigma_next, noise_scale, sigma_max)
        return mean + per_row(std, x) * fresh
    if kind == "cps":
        mean, std = cps_transition(x, v, sigma, sigma_next, noise_scale)
        return mean + per_row(std, x) * fresh
    if kind == "sde":
        return (1 - level_next) * (x - level * v) + level_next * fresh
    if kind == "simple":
        dt = level_next - level
        return x + v * dt + noise_scale * dt.abs().sqrt() * fresh
    raise ValueError(f"step kind {kind!r} is unknown: choose flow_sde, cps, sde or simple")


#: Joins velocities without and with a prompt, at a guidance scale.
Guide = Callable[[Tensor, Tensor, float], Tensor]


def classifier_free_guidance(uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """``uncond + guidance_scale (cond - uncond)``. -> as the velocities."""
    return uncond + guidance_scale * (cond - uncond)


def guided_velocity(
    velocity: VelocityModel,
    latents: Tensor,
    sigma: Tensor,
    condition: Condition,
    negative_condition: Condition,
    guidance_scale: float,
    guide: Guide = classifier_free_guidance,
) -> Tensor:
    """Velocity under classifier-free guidance, ``latents``, (B, ...), at ``sigma``, (B,).

    ``negative_condition``, the empty prompt's, has B rows or one. Both branches go in one batch of
    2 B, negative first; ``guidance_scale`` 1 evaluates ``condition`` alone. ``guide`` joins them.
    -> as ``latents``.
    """
    if guidance_scale == 1:
        return velocity(latents, sigma, condition)
    both = {
        name: torch.cat([negative_condition[name].expand_as(value), value])
        for name, value in condition.items()
    }
    uncond, cond = velocity(torch.cat([latents] * 2), torch.cat([sigma] * 2), both).chunk(2)
    return guide(uncond, cond, guidance_scale)


@torch.no_grad()
def euler_sample(
    velocity: VelocityModel,
    noise: Tensor,
    sigmas: Tensor,
    condition: Condition,
    negative_condition: Condition,
    guidance_scale: float,
    *,
    state_noise: float | None = None,
    generators: Generators = (),
    guide: Guide = classifier_free_guidance,
) -> Tensor:
    """Integrate the ODE from noise; the same bits as diffusers' ``StableDiffusion3Pipeline``.

    ``noise``, (B, ...), is at ``sigmas[0]``; ``sigmas``, (num_inference_steps + 1,), are of
    ``sampling_sigmas``, and the rest is as in ``guided_velocity``. With ``state_noise`` every step
    but the last is ``stochastic_step``'s ``simple`` one, with noise of ``generators``. -> latents
    at ``sigmas[-1]``, as ``noise``, in the model's dtype.
    """
    latents, last, conditions = noise, len(sigmas) - 2, (condition, negative_condition)
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas.to(noise.device))):
        level = sigma.expand(len(noise))
        v = guided_velocity(velocity, latents, level, *conditions, guidance_scale, guide)
        # The last step's would be grain on the image, which no model could answer.
        if state_noise is not None and i < last:
            fresh = draw_noise(noise.shape[1:], generators, noise.device)
            latents = stochastic_step(
                latents, v, level, sigma_next, "simple", state_noise, 1.0, fresh
            ).to(v.dtype)
            continue
        # Not euler_step: the scheduler multiplies in the model's dtype, which shows in bfloat16.
        latents = (latents.float() + (sigma_next - sigma) * v).to(v.dtype)
    return latents


def draw_noise(shape: Sequence[int], generators: Generators, device: torch.device) -> Tensor:
    """Standard normal rows of a shape, one a generator. -> (B, ...)."""
    # Drawn where the generators live: a GPU draws other numbers from the same seed than a CPU.
    draws = [torch.randn(tuple(shape), generator=rng, device=rng.device) for rng in generators]
    return on_device(torch.stack(draws), device)


def draw_uniform(shape: Sequence[int], generators: Generators, device: torch.device) -> Tensor:
    """Rows uniform in [0, 1), drawn as ``draw_noise`` draws."""
    draws = [torch.rand(tuple(shape), generator=rng, device=rng.device) for rng in generators]
    return on_device(torch.stack(draws), device)
