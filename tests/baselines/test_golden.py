"""Numbers of the public implementations (tests/data/vectors.json)."""

import json
from pathlib import Path

import pytest
import torch

from baselines import flow, flow_grpo, soar

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "vectors.json").read_text())


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
