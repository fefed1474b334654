"""Sampling, both halves of the autoencoder and the text encoders on a pretended GPU.

``python -m tests.pretended.inference RESOLUTION [RESOLUTION ...]`` prints JSON, a line each.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from diffusers.image_processor import VaeImageProcessor
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from baselines.base import Condition
from soarbench.benchmarks import published_sizes
from soarbench.benchmarks.full_size import random_transformer
from soarbench.config.settings import SamplingConfig
from soarbench.diagnostics.exposure import Sampler, contraction, path_errors
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Model, TextEncoders
from soarbench.planning.demand import PlanOptions, read_request
from tests.pretended.device import Pretended, pretended
from tests.tiny import build_tiny_pipeline

_PROMPTS, _TOKENS = 80, (77, 256, 512)
SAMPLING = SamplingConfig(num_inference_steps=40, guidance_scale=4.5, batch_size=16)


def full_pipeline(tiny: StableDiffusion3Pipeline, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """SD3.5-Medium's modules on the current device, with a tiny one's tokenizers and schedule."""
    (demand,) = read_request(PlanOptions(), ["model=sd35_medium", "method=sft"]).demands.values()
    encoders = {
        "text_encoder": CLIPTextModelWithProjection(published_sizes.clip_l()).to(dtype),
        "text_encoder_2": CLIPTextModelWithProjection(published_sizes.clip_g()).to(dtype),
        "text_encoder_3": T5EncoderModel(published_sizes.t5_xxl()).to(dtype),
    }
    return StableDiffusion3Pipeline(
        transformer=random_transformer(demand.model.architecture(), dtype),
        scheduler=tiny.scheduler,
        vae=AutoencoderKL(**published_sizes.VAE).requires_grad_(False).eval(),
        tokenizer=tiny.tokenizer,
        tokenizer_2=tiny.tokenizer,
        tokenizer_3=tiny.tokenizer,
        **{name: part.requires_grad_(False).eval() for name, part in encoders.items()},
    )


def peak_of(seen: Pretended, run: Callable[[], object]) -> tuple[float, object]:
    """GB that a call needs beside what is there, and what it gives."""
    before = seen.peak = seen.now
    given = run()
    return (seen.peak - before) / 1e9, given


def images_of(_: VaeImageProcessor, pixels: torch.Tensor, output_type: str) -> np.ndarray:
    """Pictures without content, of the right number and size."""
    assert output_type == "np"
    assert pixels.device.type == "cuda"
    assert pixels.dtype == torch.float32
    return np.zeros((len(pixels), *pixels.shape[-2:], 3), dtype=np.float32)


def off_path(model: SD3Model, condition: Condition, latents: torch.Tensor) -> None:
    """What is asked of a model off the training path, a step of the sampler long."""
    velocity, x0 = model.velocity(), latents.float()
    sampler = Sampler(
        velocity=velocity, condition=condition, negative_condition=condition, guidance_scale=4.5
    )
    kicked = contraction(sampler, x0, (torch.ones_like(x0),), torch.tensor([0.5, 0.0]))
    sigma = torch.full((len(x0),), 0.5, device=x0.device)
    errors = path_errors(velocity, x0, x0, x0, sigma, condition)
    values = (*kicked, *errors)
    assert {(one.shape, one.dtype) for one in values} == {(sigma.shape, torch.float32)}


def stages(resolution: int, *, is_first: bool) -> dict[str, object]:
    """Encode prompts, sample, decode and encode images at a resolution."""
    device = torch.device("cuda", 0)
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = build_tiny_pipeline(Path(folder), has_t5=True)
        tiny = StableDiffusion3Pipeline.from_pretrained(path)
        with (
            pretended() as seen,
            mock.patch.object(VaeImageProcessor, "postprocess", images_of),
        ):
            with device:
                pipeline = full_pipeline(tiny, torch.bfloat16)
            config = Sd3Config(
                name="pretended", path=str(path), resolution=resolution, max_sequence_length=256
            )
            model = SD3Model(pipeline, config)
            peaks["weights"] = seen.now / 1e9
            for tokens in _TOKENS if is_first else _TOKENS[:1]:
                encoders = TextEncoders(pipeline, tokens, device)
                encode = functools.partial(encoders.encode, [f"p {i}" for i in range(_PROMPTS)])
                peaks[f"encode_prompts {tokens}"], encoded = peak_of(seen, encode)
            rows = SAMPLING.images_at_once(resolution)
            condition = {name: value[:rows] for name, value in encoded.items()}
            noise = torch.randn(rows, *model.latent_shape)
            peaks["sample"], latents = peak_of(
                seen, lambda: model.sample(condition, condition, noise, 2, 4.5)
            )
            if is_first:
                peaks["exposure"], _ = peak_of(seen, lambda: off_path(model, condition, latents))
            latents = latents.repeat(64 // rows, 1, 1, 1)
            peaks["decode"], images = peak_of(seen, lambda: model.decode(latents))
            assert [image.size for image in images] == [(resolution, resolution)] * 64
            peaks["encode_images"], encoded = peak_of(seen, lambda: model.encode_images(images))
            assert encoded.shape == (64, *model.latent_shape)
            assert {t.device for t in (latents, encoded, *condition.values())} == {device}
    return {
        "rows": rows,
        "peaks": peaks,
        "waits": dict(seen.waits),
        "latents": str(latents.dtype),
        "encoded": str(encoded.dtype),
    }


if __name__ == "__main__":
    # Prompts are encoded in all lengths once: the resolution does not matter to them.
    for place, resolution in enumerate(sys.argv[1:]):
        sys.stdout.write(json.dumps(stages(int(resolution), is_first=place == 0)) + "\n")
