"""Numbers of the public implementations and definitions (tests/data)."""

import json
from pathlib import Path

import pytest
import torch

from baselines import awm, diffusion_nft, flow, flow_grpo, soar

DATA = Path(__file__).parents[1] / "data"
VECTORS = {
    **json.loads((DATA / "vectors.json").read_text()),
    **json.loads((DATA / "forward_process.json").read_text()),
}


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, tensor(theirs), atol=atol, rtol=0)


def cases(key):
    return [pytest.param(case, id=f"{key}-{i}") for i, case in enumerate(VECTORS[key])]


@pytest.mark.parametrize("case", cases("soar_ode"))
def test_soar_ode(case):
    t0, shift = tensor(case["t0"]), case["shift"]
    t1 = (t0 - 1 / case["num_inference_steps"]).clamp(min=0)
    close(flow.training_sigmas(t0, shift, case["num_train_timesteps"]), case["sigma"])
    close(flow.training_sigmas(t1, shift), case["sigma_next"])
    x0, noise = tensor(case["z_0"]), tensor(case["noise"])
    sigma, sigma_next = tensor(case["sigma"]), tensor(case["sigma_next"])
    close(flow.add_noise(x0, noise, sigma), case["z_sigma"])
    velocity = tensor(case["velocity_cfg"])
    latents = tensor(case["z_sigma"])
    close(flow.euler_step(latents, velocity, sigma, sigma_next), case["z_off"])
    for aux in case["aux"]:
        sigma_aux = tensor(aux["sigma"])
        close(soar.renoise(tensor(case["z_off"]), noise, sigma_next, sigma_aux), aux["z"])
        close(soar.correction_velocity(tensor(aux["z"]), x0, sigma_aux), aux["target"])


@pytest.mark.parametrize("case", cases("soar_stochastic"))
def test_soar_stochastic(case):
    arrays = {name: tensor(case[name]) for name in ("sigma", "sigma_next", "noise", "velocity")}
    ours = flow.stochastic_step(
        tensor(case["z"]),
        kind=case["kind"],
        noise_scale=case["noise_scale"],
        sigma_max=case["sigma_max"],
        **arrays,
    )
    close(ours, case["z_next"])


@pytest.mark.parametrize("case", cases("flow_grpo_sde"))
@pytest.mark.parametrize("as_tensor", [True, False])
def test_flow_grpo_sde(case, as_tensor):
    sigmas = flow.sampling_sigmas(case["num_inference_steps"], case["shift"])
    close(sigmas, case["sigmas"], atol=1e-7)
    step = torch.tensor(case["step_index"])
    sigma, sigma_next = sigmas[step], sigmas[step + 1]
    sigma_max = sigmas[1] if as_tensor else sigmas[1].item()
    mean, std = flow_grpo.sde_transition(
        tensor(case["z"]),
        tensor(case["velocity"]),
        sigma,
        sigma_next,
        case["noise_level"],
        sigma_max,
    )
    close(mean, case["mean"])
    close(std, (tensor(case["std_dev_t"]) * (sigma - sigma_next).sqrt()).tolist())
    log_prob = flow_grpo.transition_log_prob(tensor(case["prev_sample"]), mean, std)
    close(log_prob, case["log_prob"])


@pytest.mark.parametrize("case", cases("group_advantages"))
@pytest.mark.parametrize("as_tensor", [True, False])
def test_group_advantages(case, as_tensor):
    rewards = tensor(case["rewards"]) if as_tensor else case["rewards"]
    ours = flow_grpo.group_advantages(rewards, case["prompts"], case["global_std"])
    close(ours, case["advantages"], atol=1e-6)


@pytest.mark.parametrize("case", cases("nft"))
def test_nft(case):
    names = ("latents", "velocity", "old_velocity", "sigma", "x0", "advantages")
    latents, velocity, old, sigma, x0, advantages = (tensor(case[name]) for name in names)
    clip, beta = case["advantage_clip"], case["beta"]
    close(diffusion_nft.optimality(advantages, clip), case["optimality"])
    errors = ("positive_error", "negative_error")
    implicit = diffusion_nft.implicit_velocities(velocity, old, beta)
    for name, v in zip(errors, implicit, strict=True):
        close(diffusion_nft.endpoint_error(latents, v, sigma, x0), case[name])
    loss = diffusion_nft.nft_loss(latents, velocity, old, sigma, x0, advantages, clip, beta)
    close(loss, case["policy_loss"])
    close(flow.velocity_mse(velocity, tensor(case["reference_velocity"])), case["kl"])


@pytest.mark.parametrize("case", cases("nft_decay"))
def test_nft_decay(case):
    decay = case.pop("decay")
    assert diffusion_nft.old_policy_decay(**case) == pytest.approx(decay, abs=1e-12)


@pytest.mark.parametrize("case", cases("awm"))
def test_awm(case):
    target, sigma, advantages = (tensor(case[n]) for n in ("target", "sigma", "advantages"))
    log_probs = [
        awm.matching_log_prob(tensor(case[v]), target, sigma, case["weighting"], case["power"])
        for v in ("velocity", "old_velocity")
    ]
    for log_prob, name in zip(log_probs, ("log_prob", "old_log_prob"), strict=True):
        close(log_prob, case[name])
    ratio = (log_probs[0] - log_probs[1]).exp()
    loss = flow_grpo.clipped_policy_loss(ratio, advantages, case["clip_range"])
    close(loss, case["policy_loss"])
