"""A two-dimensional model, rows and runs for the tests of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from baselines.awm_config import AwmConfig
from baselines.base import Condition, Method, World
from baselines.best_of_group_config import BestOfGroupConfig
from baselines.config import LoraConfig, MethodConfig, OptimConfig, TrainingConfig
from baselines.diffusion_nft_config import DiffusionNftConfig
from baselines.flow_grpo import FlowGrpo
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.group_method import GroupMethod
from baselines.loop.post_train import post_train
from baselines.loop.sharding import DDP, whole
from baselines.loop.trainer import TrainingSummary
from baselines.online_dpo_config import OnlineDpoConfig
from baselines.schedule import StaticShift
from baselines.sft import Sft
from baselines.sft_config import SftConfig
from baselines.soar import Soar
from baselines.soar_config import SoarConfig

LABELS = 2
NEGATIVE = {"label": torch.zeros(1, LABELS)}
LORA = LoraConfig(rank=2, alpha=4.0, target_modules=("hidden", "last"))


class PlaneModel(ModelMixin, ConfigMixin):
    """Velocity of points in the plane, as a diffusers model."""

    @register_to_config
    def __init__(self, width: int = 32):
        super().__init__()
        self.first = nn.Linear(3 + LABELS, width)
        self.hidden = nn.Linear(width, width)
        self.last = nn.Linear(width, 2)

    def forward(self, latents: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        inputs = torch.cat([latents, sigma[:, None], label], 1)
        hidden = nn.functional.silu(self.first(inputs))
        return self.last(nn.functional.silu(self.hidden(hidden)))


class PlaneVelocity:
    """The adapter that ``soarbench/models`` has for SD3."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return self.model(latents=latents, sigma=sigma, label=condition["label"]).float()


def plane_model(seed: int = 0, width: int = 32) -> PlaneModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # By name: diffusers takes what comes by place for a default, and copies leave it out.
        return PlaneModel(width=width)


class PlaneRows:
    """Two clusters, one a label, around (+2, 0) and (-2, 0)."""

    def __init__(self, count: int = 24, *, with_x0: bool = True):
        rng = torch.Generator().manual_seed(5)
        self.label = torch.arange(count) % LABELS
        centres = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])[self.label]
        self.x0 = centres + 0.1 * torch.randn(count, 2, generator=rng)
        self.with_x0 = with_x0

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int):
        label = int(self.label[index])
        row = {
            "condition": {"label": nn.functional.one_hot(self.label[index], LABELS).float()},
            "prompt": f"prompt {index}",
            "columns": {"label": label},
        }
        return {**row, "x0": self.x0[index]} if self.with_x0 else row


def near_the_target(_prompts, latents: Tensor, _columns: Mapping[str, list[int]]) -> list[float]:
    """Reward of rollouts: closeness to a point away from the data, (0, 2)."""
    return (-(latents - torch.tensor([0.0, 2.0], device=latents.device)).square().sum(1)).tolist()


def sft() -> Method:
    return Sft(SftConfig(condition_dropout=0.1), schedule=StaticShift(1.0))


def soar() -> Method:
    config = SoarConfig(
        num_aux_points=2, num_rollout_paths=2, num_inference_steps=10, guidance_scale=2.0
    )
    return Soar(config, schedule=StaticShift(1.0))


def flow_grpo(
    *,
    group_size: int = 4,
    updates_per_collection: int = 2,
    reward=near_the_target,
    **distributed,
) -> Method:
    config = FlowGrpoConfig(
        group_size=group_size,
        num_inference_steps=4,
        guidance_scale=1.5,
        kl_coeff=0.01,
        clip_range=0.2,
        updates_per_collection=updates_per_collection,
    )
    return FlowGrpo(
        config, World(schedule=StaticShift(1.0), latent_shape=(2,), reward=reward, **distributed)
    )


#: Small groups and short rollouts, in the plane.
_SHORT = {"group_size": 4, "num_inference_steps": 4}
#: Of those that are new here, with an old policy that lags from its first move on.
RIVALS: dict[str, MethodConfig] = {
    "diffusion_nft": DiffusionNftConfig(
        **_SHORT, updates_per_collection=2, kl_coeff=0.01, train_timestep_fraction=0.5, old_rate=0.2
    ),
    "awm": AwmConfig(
        **_SHORT,
        updates_per_collection=2,
        kl_coeff=0.01,
        num_levels=2,
        old_rate=0.2,
        weighting="sigma",
    ),
    "best_of_group": BestOfGroupConfig(**_SHORT, guidance_scale=1.5),
    "online_dpo": OnlineDpoConfig(**_SHORT, guidance_scale=1.5, beta=10.0),
}


def rival(name: str, *, reward=near_the_target, **distributed) -> Method:
    """One of ``RIVALS``."""
    return RIVALS[name].build(
        World(schedule=StaticShift(1.0), latent_shape=(2,), reward=reward, **distributed)
    )


METHODS = {
    "sft": sft,
    "soar": soar,
    "flow_grpo": flow_grpo,
    **{name: partial(rival, name) for name in RIVALS},
}


def run_config(**changes) -> dict[str, object]:
    """What ``post_train`` is configured by; most runs here keep no weights for evaluation."""
    run = {"optim": OptimConfig(learning_rate=1e-2), "lora": None, "ema": None, "seed": 3}
    loop = {"steps": 8, "batch_size": 8, "save_steps": 4, "logging_steps": 2, "num_snapshots": 0}
    of_run = {name: changes.pop(name) for name in run if name in changes}
    return {**run, **of_run, "training": TrainingConfig(**{**loop, **changes})}


class Logs:
    """What ``on_log`` was given; the last entry of a repeated step counts."""

    def __init__(self, *, stop_at: int | None = None):
        self.points: dict[int, dict[str, float]] = {}
        self.stop_at = stop_at

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.points[step] = dict(metrics)

    def without_time(self) -> dict[int, dict[str, float]]:
        return {
            step: {name: value for name, value in point.items() if name != "seconds"}
            for step, point in self.points.items()
        }


def run(
    folder: Path,
    method: Method,
    config: Mapping[str, object],
    *,
    model: nn.Module | None = None,
    logs: Logs | None = None,
    rows=None,
    parallelism: str = DDP,
) -> tuple[dict[str, Tensor], TrainingSummary, Logs]:
    """Train a fresh model. -> final weights, summary, logs."""
    model = plane_model() if model is None else model
    logs = Logs() if logs is None else logs
    summary = post_train(
        model,
        method,
        PlaneRows(with_x0=not isinstance(method, GroupMethod)) if rows is None else rows,
        folder=folder,
        **config,
        velocity_of=PlaneVelocity,
        negative_condition=NEGATIVE,
        on_log=logs,
        parallelism=parallelism,
    )
    weights = {name: whole(value).detach().clone() for name, value in model.state_dict().items()}
    return weights, summary, logs
