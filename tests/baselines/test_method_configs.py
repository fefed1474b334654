"""A method's configuration says what the method needs and costs, as the method itself does."""

import ast
from pathlib import Path

import pytest
import torch

import baselines
from baselines.base import Batch, World
from baselines.config import MethodConfig
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.schedule import StaticShift
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig

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
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_method_agrees_with_its_configuration(config):
    method = config.build(WORLD)
    assert method.group_size == config.group_size
    assert method.updates_per_collection == config.updates_per_collection
    assert method.needs_reference == config.needs_reference
    batch = Batch({"active": torch.ones(6, dtype=torch.bool)}, {}, {}, [""] * 6)
    assert method.forward_equivalents(batch) == 6 * config.forward_equivalents()
    assert config.forwards_with_gradient() <= config.forward_equivalents() / 3


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


@pytest.mark.parametrize("name", ["sft", "soar", "flow_grpo"])
def test_methods_do_not_know_each_other(name):
    others = {"sft", "soar", "flow_grpo"} - {name}
    for path in (f"{name}.py", f"{name}_config.py"):
        tree = ast.parse((Path(baselines.__file__).parent / path).read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        known = {f"baselines.{other}{end}" for other in others for end in ("", "_config")}
        assert not modules & known
