"""Measures what a forward and backward of small transformers keep: ``python -m tests.peaks``.

A process of its own, so that its peak memory is its own; prints one line of JSON, bytes by case.
"""

from __future__ import annotations

import gc
import json
import sys

import torch
from diffusers import SD3Transformer2DModel

from baselines.config import LoraConfig, TrainingConfig
from baselines.loop.weights import prepare_transformer
from soarbench.benchmarks.memory import PeakMemory
from soarbench.models.sd3.architecture import Sd3Architecture
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Velocity

ROWS = 2
SMALL = Sd3Architecture(
    config={
        "sample_size": 32,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 5,
        "attention_head_dim": 32,
        "num_attention_heads": 6,
        "joint_attention_dim": 64,
        "caption_projection_dim": 192,
        "pooled_projection_dim": 64,
        "pos_embed_max_size": 32,
        "dual_attention_layers": [0, 1],
        "qk_norm": "rms_norm",
    },
    clip_tokens=77,
    vae_scale_factor=8,
    vae_parameters=0,
)
MODEL = Sd3Config(name="small", path="org/small", resolution=256, max_sequence_length=0)
_ADAPTER = MODEL.adapted(LoraConfig(rank=4, alpha=8.0))
_PLAIN = TrainingConfig(steps=1, batch_size=ROWS)
_CHECKPOINTED = TrainingConfig(steps=1, batch_size=ROWS, gradient_checkpointing=True)
CASES = {
    "full": (_PLAIN, None),
    "full checkpointed": (_CHECKPOINTED, None),
    "adapter": (_PLAIN, _ADAPTER),
    "adapter checkpointed": (_CHECKPOINTED, _ADAPTER),
}


def measure(training: TrainingConfig, lora: LoraConfig | None) -> float:
    """Bytes at the peak of a second pass, above those before it."""
    transformer = SD3Transformer2DModel(**SMALL.config)
    velocity = SD3Velocity(prepare_transformer(transformer, training, lora).train())
    shape = SMALL.latent_shape(MODEL.resolution)
    condition = {
        "prompt_embeds": torch.randn(ROWS, SMALL.clip_tokens, 64),
        "pooled_prompt_embeds": torch.randn(ROWS, 64),
    }
    latents, sigma = torch.randn(ROWS, *shape), torch.rand(ROWS)
    for _ in range(2):
        gc.collect()
        memory = PeakMemory(torch.device("cpu"))
        velocity(latents, sigma, condition).square().mean().backward()
    return memory.above_idle() * 2**20


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measure(*CASES["full"])  # the libraries' own buffers, which later cases find made
    found = {name: measure(*case) for name, case in CASES.items()}
    sys.stdout.write(json.dumps(found) + "\n")
