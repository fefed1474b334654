"""The families beside SD3 on tiny weights: how each is called, and runs that train it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import QwenImagePipeline
from torch import Tensor, nn

from baselines.awm_config import AwmConfig
from baselines.base import World
from baselines.best_of_group_config import BestOfGroupConfig
from baselines.config import LoraConfig, MethodConfig, OptimConfig
from baselines.diffusion_nft_config import DiffusionNftConfig
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.loop.post_train import post_train
from baselines.loop.sharding import DDP
from baselines.online_dpo_config import OnlineDpoConfig
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig
from soarbench.models.flux2_klein.config import Flux2KleinConfig
from soarbench.models.qwen_image.config import QwenImageConfig
from soarbench.models.sana.config import SanaConfig
from soarbench.models.z_image.config import ZImageConfig
from tests.baselines.toys import Logs, run_config
from tests.tiny_families import build_flux2_klein, build_qwen_image, build_sana, build_z_image

PROMPTS = ["a photo of a red circle", "a heart"]


class Family:
    """A configuration of tiny weights, and how its pipeline is called."""

    guidance_scale = 4.0
    #: How far samples without guidance may be from the pipeline's.
    tolerance = 0.0
    settings: ClassVar = {"name": "tiny", "resolution": 32, "max_sequence_length": 60}
    call: ClassVar = {}

    def __init__(self, folder):
        # One of several processes would save a part of it only.
        if not (folder / "model_index.json").is_file():
            self.build(folder)
        self.config = self.kind(path=str(folder), **self.settings)
        self.model = self.config.load("cpu")
        rng = torch.Generator().manual_seed(0)
        self.noise = torch.randn(len(PROMPTS), *self.model.latent_shape, generator=rng)

    def sampled(self, guidance_scale):
        condition = self.model.encode_prompts(PROMPTS)
        negative = self.model.encode_prompts([""] * len(PROMPTS))
        return self.model.sample(condition, negative, self.noise, 5, guidance_scale)

    def as_given(self, latents):
        """As the pipeline gives latents."""
        return latents

    def guidance(self, scale):
        return {"guidance_scale": scale, "latents": self.noise}

    def by_pipeline(self, scale, output_type):
        height, width = (side * self.model.stride for side in self.noise.shape[-2:])
        call = {"height": height, "width": width, "num_inference_steps": 5, **self.call}
        call["max_sequence_length"] = self.config.max_sequence_length
        # Some pipelines put prompts into a template in the list that they are given.
        call["prompt"] = list(PROMPTS)
        call.update(self.guidance(scale), output_type=output_type)
        return self.model.pipeline(**call).images


class Flux2Klein(Family):
    kind, build = Flux2KleinConfig, staticmethod(build_flux2_klein)

    def as_given(self, latents):
        return self.model.unscaled(latents)


class Sana(Family):
    kind, build = SanaConfig, staticmethod(build_sana)
    call: ClassVar = {"use_resolution_binning": False}


class ZImage(Family):
    kind, build = ZImageConfig, staticmethod(build_z_image)

    def guidance(self, scale):
        # Added, times the difference, to the prompt's own velocity.
        return {"guidance_scale": scale - 1, "latents": self.noise}


class QwenImage(Family):
    kind, build = QwenImageConfig, staticmethod(build_qwen_image)
    # The pipeline pads prompts to the longest of a call, here they have one length.
    tolerance = 1e-4
    settings: ClassVar = Family.settings | {"max_sequence_length": 256}

    def as_given(self, latents):
        batch, channels, height, width = latents.shape
        return QwenImagePipeline._pack_latents(latents, batch, channels, height, width)

    def guidance(self, scale):
        negative = {} if scale == 1 else {"negative_prompt": [""] * len(PROMPTS)}
        return {"true_cfg_scale": scale, "latents": self.as_given(self.noise), **negative}


FAMILIES = {"flux2_klein": Flux2Klein, "sana": Sana, "z_image": ZImage, "qwen_image": QwenImage}


class Rows:
    """Latents and kept conditions of a family."""

    def __init__(self, family, count=4):
        rng = torch.Generator().manual_seed(1)
        self.x0 = torch.randn(count, *family.model.latent_shape, generator=rng)
        self.conditions = family.model.encode_prompts([f"{i} stars" for i in range(count)])

    def __len__(self):
        return len(self.x0)

    def __getitem__(self, index):
        condition = {name: value[index] for name, value in self.conditions.items()}
        return {"x0": self.x0[index], "condition": condition, "prompt": str(index)}


def brightness(_prompts, latents, _columns):
    return latents.flatten(1).mean(1).tolist()


LORA = LoraConfig(rank=2, alpha=4.0)
_GROUP = {"group_size": 2, "num_inference_steps": 2}
#: Name -> (method, adapter or all weights); where the old policy lags, it does from its first move.
METHODS: dict[str, tuple[MethodConfig, LoraConfig | None]] = {
    "sft": (SftConfig(condition_dropout=0.5), None),
    "soar": (SoarConfig(num_aux_points=2, num_rollout_paths=2), LORA),
    "flow_grpo": (FlowGrpoConfig(**_GROUP, kl_coeff=0.1, updates_per_collection=1), LORA),
    "diffusion_nft": (DiffusionNftConfig(**_GROUP, kl_coeff=0.1, old_rate=0.2), LORA),
    "awm": (AwmConfig(**_GROUP, kl_coeff=0.1, num_levels=1, old_rate=0.2), LORA),
    "best_of_group": (BestOfGroupConfig(**_GROUP), None),
    "online_dpo": (OnlineDpoConfig(**_GROUP, beta=10.0), LORA),
}


def train(
    family: Family,
    name: str,
    folder: Path,
    *,
    logs: Logs | None = None,
    parallelism: str = DDP,
    gather: Callable[[Tensor], Tensor] = lambda local: local,
    rank: int = 0,
    **changes: object,
) -> nn.Module:
    """Train a copy of a family's transformer by a method. -> it."""
    method, lora = METHODS[name]
    model, transformer = family.model, copy.deepcopy(family.model.transformer)
    world = World(
        schedule=model.schedule, latent_shape=model.latent_shape, reward=brightness,
        gather=gather, rank=rank,
    )  # fmt: skip
    loop = {"steps": 2, "batch_size": 2, "save_steps": 1, "num_snapshots": 1} | changes
    post_train(
        transformer,
        method.build(world),
        Rows(family),
        folder=folder,
        **run_config(
            optim=OptimConfig(learning_rate=1e-2),
            lora=None if lora is None else family.config.adapted(lora),
            **loop,
        ),
        velocity_of=model.velocity,
        negative_condition=model.encode_prompts([""]),
        on_log=Logs() if logs is None else logs,
        parallelism=parallelism,
    )
    return transformer
