"""Each method learns a problem in the plane whose answer is known."""

import copy

import pytest
import torch
from torch import nn

from baselines.awm_config import AwmConfig
from baselines.base import World
from baselines.best_of_group_config import BestOfGroupConfig
from baselines.config import OptimConfig
from baselines.diffusion_nft_config import DiffusionNftConfig
from baselines.flow import euler_sample, sampling_sigmas
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.online_dpo_config import OnlineDpoConfig
from baselines.schedule import StaticShift
from baselines.sft import Sft
from baselines.sft_config import SftConfig
from baselines.soar import Soar
from baselines.soar_config import SoarConfig
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


def learn_from_data(method, folder):
    model = plane_model(width=64)
    config = run_config(
        steps=120, batch_size=32, optim=OptimConfig(learning_rate=1e-2), save_steps=120
    )
    run(folder, method, config, model=model)
    return model


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return learn_from_data(
        Sft(SftConfig(), schedule=StaticShift(1.0)), tmp_path_factory.mktemp("base")
    )


def test_sft_learns_where_each_label_lies(base_model):
    assert distance_to_own_cluster(samples(plane_model(width=64))) > 1.5
    assert distance_to_own_cluster(samples(base_model)) < 0.6


def test_soar_learns_where_each_label_lies(tmp_path):
    config = SoarConfig(num_inference_steps=10, num_aux_points=2, aux_chunk=2, guidance_scale=1.0)
    model = learn_from_data(Soar(config, schedule=StaticShift(1.0)), tmp_path)
    assert distance_to_own_cluster(samples(model)) < 0.6


ROLLOUT = {"group_size": 8, "num_inference_steps": 6, "guidance_scale": 1.0}
REWARDED = {
    "flow_grpo": FlowGrpoConfig(**ROLLOUT, clip_range=0.1, kl_coeff=0.0),
    "flow_grpo, cps": FlowGrpoConfig(**ROLLOUT, clip_range=0.1, kl_coeff=0.0, step_kind="cps"),
    "diffusion_nft": DiffusionNftConfig(**ROLLOUT, kl_coeff=0.0),
    "awm": AwmConfig(**ROLLOUT, kl_coeff=0.0, advantage_clip=5.0, ema_kl_coeff=0.1),
    "best_of_group": BestOfGroupConfig(**ROLLOUT),
    "online_dpo": OnlineDpoConfig(**ROLLOUT, beta=1.0),
}


@pytest.mark.parametrize("name", REWARDED)
def test_rewards_move_a_trained_model_towards_them(tmp_path, base_model, name):
    model = copy.deepcopy(base_model)
    method = REWARDED[name].build(
        World(schedule=StaticShift(1.0), latent_shape=(2,), reward=near_the_target)
    )
    training = run_config(
        steps=40, batch_size=32, optim=OptimConfig(learning_rate=3e-3), save_steps=40
    )
    _, _, logs = run(tmp_path, method, training, model=model)
    first, last = logs.points[2], logs.points[40]
    assert last["rollout/reward_mean"] > first["rollout/reward_mean"] + 2
    # Also of points drawn without noise in the sampler.
    assert mean_reward(model) > mean_reward(base_model) + 2


def mean_reward(model):
    points = samples(model)
    return sum(near_the_target([], points, {})) / len(points)
