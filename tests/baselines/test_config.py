import subprocess
import sys

import pytest

from baselines.config import EmaConfig, LoraConfig, OptimConfig
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig


def test_defaults_are_the_published_values():
    soar = SoarConfig()
    assert (soar.guidance_scale, soar.num_inference_steps, soar.num_aux_points) == (4.5, 40, 6)
    assert (soar.num_rollout_paths, soar.aux_weight, soar.step_kind) == (1, 1.0, "flow_sde")
    grpo = FlowGrpoConfig()
    assert (grpo.group_size, grpo.num_inference_steps, grpo.noise_level) == (24, 10, 0.7)
    assert (grpo.guidance_scale, grpo.clip_range, grpo.advantage_clip) == (4.5, 1e-4, 5)
    assert (grpo.kl_form, grpo.kl_coeff, grpo.updates_per_collection) == ("published", 0.04, 2)
    optim = OptimConfig()
    assert (optim.learning_rate, optim.weight_decay, optim.max_grad_norm) == (2e-5, 1e-2, 1.0)
    lora = LoraConfig()
    assert (lora.rank, lora.alpha, lora.target_modules) == (32, 64, None)
    assert (EmaConfig().decay, EmaConfig().every) == (0.9, 8)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (SftConfig, {"condition_dropout": 1.0}, "condition_dropout = 1.0"),
        (SftConfig, {"condition_dropout": float("nan")}, "probability"),
        (SoarConfig, {"condition_dropout": -0.1}, "condition_dropout"),
        (SoarConfig, {"guidance_scale": 0.5}, "guidance_scale = 0.5.*1.0"),
        (SoarConfig, {"num_inference_steps": 1000}, "num_inference_steps = 1000.*1 to 999"),
        (SoarConfig, {"num_aux_points": 0}, "num_aux_points = 0.*aux_weight=0"),
        (SoarConfig, {"num_rollout_paths": 0}, "num_rollout_paths"),
        (SoarConfig, {"aux_chunk": 0}, "aux_chunk"),
        (SoarConfig, {"aux_weight": -1.0}, "aux_weight"),
        (SoarConfig, {"noise_scale": float("inf")}, "noise_scale"),
        (SoarConfig, {"step_kind": "ddim"}, "step_kind = 'ddim'.*flow_sde, cps, sde, simple"),
        (FlowGrpoConfig, {"group_size": 1}, "group_size"),
        (FlowGrpoConfig, {"num_inference_steps": 1}, "num_inference_steps"),
        (FlowGrpoConfig, {"noise_level": 0.0}, "noise_level"),
        (FlowGrpoConfig, {"clip_range": 0.0}, "clip_range"),
        (FlowGrpoConfig, {"advantage_clip": -5.0}, "advantage_clip"),
        (FlowGrpoConfig, {"kl_coeff": -0.1}, "kl_coeff"),
        (FlowGrpoConfig, {"kl_form": "forward"}, "kl_form = 'forward'.*published, exact"),
        (FlowGrpoConfig, {"train_timestep_fraction": 0.0}, "train_timestep_fraction"),
        (FlowGrpoConfig, {"updates_per_collection": 0}, "updates_per_collection"),
        (FlowGrpoConfig, {"rollout_batch_size": 0}, "rollout_batch_size = 0.*1 or more"),
        (FlowGrpoConfig, {"sde_window_size": -1}, "sde_window_size"),
        (FlowGrpoConfig, {"sde_window_size": 6}, "sde_window_size = 6.*holds 5 steps"),
        (
            FlowGrpoConfig,
            {"sde_window_size": 1, "sde_window_range": (5, 11)},
            r"sde_window_range = \(5, 11\).*0\.\.10",
        ),
        (OptimConfig, {"learning_rate": 0.0}, "learning_rate"),
        (OptimConfig, {"weight_decay": -1.0}, "weight_decay"),
        (OptimConfig, {"max_grad_norm": 0.0}, "max_grad_norm"),
        (OptimConfig, {"betas": (0.9, 1.0)}, "betas"),
        (OptimConfig, {"warmup_steps": -1}, "warmup_steps"),
        (OptimConfig, {"schedule": "step"}, "schedule = 'step'.*constant"),
        (LoraConfig, {"rank": 0}, "rank"),
        (LoraConfig, {"alpha": 0.0}, "alpha"),
        (LoraConfig, {"target_modules": ()}, "target_modules"),
        (EmaConfig, {"decay": 1.0}, "decay"),
        (EmaConfig, {"every": 0}, "every"),
    ],
)
def test_impossible_values_are_refused_by_name(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_trained_and_stochastic_steps():
    assert FlowGrpoConfig().num_trained_steps == 9
    assert FlowGrpoConfig().num_sde_steps == 10
    assert FlowGrpoConfig(train_timestep_fraction=1.0).num_trained_steps == 10
    assert FlowGrpoConfig(train_timestep_fraction=0.01).num_trained_steps == 1
    every = FlowGrpoConfig(num_inference_steps=100, train_timestep_fraction=0.29)
    assert every.num_trained_steps == 29
    window = FlowGrpoConfig(sde_window_size=2)
    assert (window.num_trained_steps, window.num_sde_steps) == (2, 2)


def test_an_unused_window_range_is_not_checked():
    assert FlowGrpoConfig(num_inference_steps=4).sde_window_size == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SftConfig(num_points=10**400), "num_points = 1000"),
        (SoarConfig(num_aux_points=10**400), "num_aux_points = 1000"),
        (FlowGrpoConfig(group_size=10**10), "group_size = 10000000000 is not possible"),
        (FlowGrpoConfig(num_inference_steps=1000), "num_inference_steps = 1000.*use 999 or less"),
    ],
)
def test_no_plan_counts_with_endless_numbers(config, message):
    with pytest.raises(ValueError, match=message):
        config.check_sizes()
    type(config)().check_sizes()


def test_settings_and_rewards_import_no_framework():
    code = (
        "import sys, baselines.config, baselines.sft_config, "
        "baselines.soar_config, baselines.flow_grpo_config, baselines.rewards.base;"
        "assert not {'torch', 'transformers', 'diffusers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
