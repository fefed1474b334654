"""Each method learns a problem in the plane whose answer is known."""

import pytest
import torch
from torch import nn

from baselines.config import FlowGrpoConfig, OptimConfig, SftConfig, SoarConfig
from baselines.flow import euler_sample, sampling_sigmas
from baselines.flow_grpo import FlowGrpo
from baselines.sft import Sft
from baselines.soar import Soar
from tests.baselines.toys import (
    LABELS,
    NEGATIVE,
    PlaneVelocity,
    near_the_target,
    plane_model,
    run,
    run_config,
)

CENTRES = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])


def samples(model, count=128, *, guidance_scale=1.0):
    """Points drawn from the model, half of them of each label, in turn."""
    label = nn.functional.one_hot(torch.arange(count) % LABELS, LABELS).float()
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    sigmas = sampling_sigmas(10, 1.0)
    return euler_sample(
        PlaneVelocity(model), noise, sigmas, {"label": label}, NEGATIVE, guidance_scale
    )


def distance_to_own_cluster(points):
    """Mean distance of points to the centre of their label."""
    return (points - CENTRES[torch.arange(len(points)) % LABELS]).norm(dim=1).mean().item()


@pytest.mark.parametrize(
    "method",
    [
        Sft(SftConfig(), shift=1.0),
        Soar(
            SoarConfig(num_inference_steps=10, num_aux_points=2, aux_chunk=2, guidance_scale=1.0),
            shift=1.0,
        ),
    ],
    ids=["sft", "soar"],
)
def test_data_methods_learn_where_each_label_lies(tmp_path, method):
    model = plane_model(width=64)
    assert distance_to_own_cluster(samples(model)) > 1.5
    config = run_config(
        steps=150, batch_size=64, optim=OptimConfig(learning_rate=1e-2), save_steps=150
    )
    run(tmp_path, method, config, model=model)
    assert distance_to_own_cluster(samples(model)) < 0.5


def test_flow_grpo_moves_a_trained_model_towards_the_reward(tmp_path):
    model = plane_model(width=64)
    pretraining = run_config(
        steps=150, batch_size=64, optim=OptimConfig(learning_rate=1e-2), save_steps=150
    )
    run(tmp_path / "base", Sft(SftConfig(), shift=1.0), pretraining, model=model)
    before = mean_reward(model)
    method = FlowGrpo(
        FlowGrpoConfig(
            group_size=8,
            num_inference_steps=6,
            guidance_scale=1.0,
            noise_level=0.7,
            clip_range=0.1,
            kl_coeff=0.0,
            updates_per_collection=2,
        ),
        shift=1.0,
        latent_shape=(2,),
        reward=near_the_target,
    )
    config = run_config(
        steps=60, batch_size=64, optim=OptimConfig(learning_rate=3e-3), save_steps=60
    )
    _, _, logs = run(tmp_path / "grpo", method, config, model=model)
    after = mean_reward(model)
    assert after > before + 2
    first, last = logs.points[2], logs.points[60]
    assert last["rollout/reward_mean"] > first["rollout/reward_mean"] + 2


def mean_reward(model):
    """Reward of points drawn without noise in the sampler."""
    points = samples(model)
    return sum(near_the_target([], points, {})) / len(points)
