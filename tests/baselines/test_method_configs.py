"""A method's configuration says what the method needs and costs, as the method itself does."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import baselines
from baselines.awm_config import AwmConfig
from baselines.base import Batch, Policies, World
from baselines.best_of_group_config import BestOfGroupConfig
from baselines.config import MethodConfig
from baselines.diffusion_nft_config import DiffusionNftConfig
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.online_dpo_config import OnlineDpoConfig
from baselines.schedule import StaticShift
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig
from tests.baselines.method_toys import generators, toy_batch

WORLD = World(
    schedule=StaticShift(3.0), latent_shape=(2,), reward=lambda prompts, *_: [0.0] * len(prompts)
)
CONFIGS = [
    SftConfig(),
    SftConfig(num_points=7),
    SoarConfig(),
    SoarConfig(off_path=False),
    SoarConfig(guidance_scale=1.0, num_rollout_paths=2),
    SoarConfig(aux_weight=0.0),
    FlowGrpoConfig(),
    FlowGrpoConfig(kl_coeff=0.0, guidance_scale=1.0, sde_window_size=2),
    DiffusionNftConfig(),
    DiffusionNftConfig(kl_coeff=0.0, guidance_scale=2.0),
    AwmConfig(),
    AwmConfig(kl_coeff=0.0, ema_kl_coeff=0.0),
    BestOfGroupConfig(group_size=6, keep=2),
    OnlineDpoConfig(group_size=6),
]
#: Rows of a group of six that enter the loss.
TRAINED = {"best_of_group": 2, "online_dpo": 1}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_method_agrees_with_its_configuration(config):
    method = config.build(WORLD)
    assert method.group_size == config.group_size
    assert method.updates_per_collection == config.updates_per_collection
    assert method.needs_reference == config.needs_reference
    assert (method.old_decay is not None) == config.keeps_old_policy
    active = torch.arange(6) < TRAINED.get(config.kind, 6)
    batch = Batch({"active": active}, {}, {}, [""] * 6)
    cost = method.forward_equivalents(batch)
    assert cost == pytest.approx(6 * config.forward_equivalents(), abs=1e-9)
    assert config.forwards_with_gradient() <= config.forward_equivalents() / 3


def evaluations(config: MethodConfig, rows: int) -> tuple[float, float]:
    """Forwards of a model that counts its rows, and those that a gradient follows."""
    count = {True: 0.0, False: 0.0}

    def model(latents, _sigma, condition):
        count[torch.is_grad_enabled()] += len(latents)
        return 0.1 * weight * latents + condition["label"][:, :2]

    weight = torch.ones((), requires_grad=True)
    policies = Policies(model, old=torch.no_grad()(model), reference=torch.no_grad()(model))
    reward = lambda _prompts, latents, _columns: latents[:, 0].tolist()  # noqa: E731
    method = config.build(World(schedule=StaticShift(3.0), latent_shape=(2,), reward=reward))
    batch = replace(toy_batch(rows), prompts=[f"{row // 4}" for row in range(rows)])
    collected = method.collect(policies, batch, generators(rows)).batch
    sum(term.loss_sum for term in method.losses(policies, collected)).backward()
    assert method.forward_equivalents(collected) == pytest.approx(
        count[False] + 3 * count[True], abs=1e-9
    )
    return count[False], count[True]


@pytest.mark.parametrize(
    "config",
    [
        FlowGrpoConfig(group_size=4, skip_zero_std_groups=False),
        DiffusionNftConfig(group_size=4),
        DiffusionNftConfig(group_size=4, guidance_scale=2.0, kl_coeff=0.0),
        AwmConfig(group_size=4),
        AwmConfig(group_size=4, ema_kl_coeff=0.0, guidance_scale=2.0),
        BestOfGroupConfig(group_size=4, keep=3),
        OnlineDpoConfig(group_size=4, guidance_scale=1.0),
    ],
)
def test_the_cost_is_what_a_model_counts(config):
    without, with_gradient = evaluations(config, 8)
    assert without + 3 * with_gradient == pytest.approx(8 * config.forward_equivalents())
    assert with_gradient == pytest.approx(8 * config.forwards_with_gradient())


def test_rows_without_spread_are_rolled_out_alone():
    config = FlowGrpoConfig()
    batch = Batch({"active": torch.zeros(6, dtype=torch.bool)}, {}, {}, [""] * 6)
    assert config.build(WORLD).forward_equivalents(batch) == 6 * 2 * 10


def test_rows_with_a_graph():
    assert SftConfig().rows_with_graph(4) == 4
    assert SoarConfig(aux_chunk=4).rows_with_graph(4) == 16
    assert SoarConfig(aux_chunk=9).rows_with_graph(4) == 24
    assert SoarConfig(aux_weight=0.0, aux_chunk=9).rows_with_graph(4) == 4
    assert FlowGrpoConfig().rows_with_graph(4) == 8
    assert FlowGrpoConfig(guidance_scale=1.0).rows_with_graph(4) == 4


def test_what_is_no_method_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        MethodConfig()


@pytest.mark.parametrize("name", sorted({config.kind for config in CONFIGS}))
def test_methods_do_not_know_each_other(name):
    others = {config.kind for config in CONFIGS} - {name}
    for path in (f"{name}.py", f"{name}_config.py"):
        tree = ast.parse((Path(baselines.__file__).parent / path).read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        known = {f"baselines.{other}{end}" for other in others for end in ("", "_config")}
        assert not modules & known
