"""Sampling, both halves of the autoencoder and the text encoders on a pretended GPU."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from diffusers.image_processor import VaeImageProcessor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from baselines.base import Condition
from soarbench.benchmarks import published_sizes
from soarbench.benchmarks.full_size import random_transformer
from soarbench.config.settings import SamplingConfig
from soarbench.diagnostics.exposure import Sampler, contraction, path_errors
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Model, TextEncoders
from soarbench.planning.demand import PlanOptions, read_request
from soarbench.planning.fake_transformer import MetaModel
from soarbench.planning.memory_and_time import CONTEXT_GB, FRAGMENTATION, GB, other_phases
from tests.pretended.device import Pretended, pretended
from tests.tiny import build_tiny_pipeline

#: As many as go through the encoders at once; of the longest twice as many.
_PROMPTS, _TOKENS = 64, (77, 256, 512)
#: More than go through the autoencoder at once.
_IMAGES = 16
GPU = torch.device("cuda", 0)
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


def results(resolutions: Sequence[str]) -> Iterator[dict[str, object]]:
    """Encode prompts, sample, decode and encode images at each resolution."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pretended() as seen,
        mock.patch.object(VaeImageProcessor, "postprocess", images_of),
    ):
        with unset_fake_temporarily():
            path = build_tiny_pipeline(Path(folder), has_t5=True)
            tiny = StableDiffusion3Pipeline.from_pretrained(path)
        with GPU:
            pipeline = full_pipeline(tiny, torch.bfloat16)
        prompts = {"weights": seen.now / 1e9}
        # In all lengths once: the resolution does not matter to them.
        for tokens in _TOKENS:
            encoders = TextEncoders(pipeline, tokens, GPU)
            encode = functools.partial(encoders.encode, [f"p {i}" for i in range(_PROMPTS)])
            prompts[f"encode_prompts {tokens}"], encoded = peak_of(seen, encode)
        for place, resolution in enumerate(resolutions):
            config = Sd3Config(
                name="pretended",
                path=str(path),
                resolution=int(resolution),
                max_sequence_length=256,
            )
            model = SD3Model(pipeline, config)
            yield prompts_to_images(model, encoded, seen, prompts, is_first=place == 0)


def prompts_to_images(
    model: SD3Model,
    encoded: Condition,
    seen: Pretended,
    prompts: Mapping[str, float],
    *,
    is_first: bool,
) -> dict[str, object]:
    """What follows on prompts at a model's resolution; off the path at the first one alone."""
    peaks, resolution = dict(prompts), model.config.resolution
    rows = SAMPLING.images_at_once(resolution)
    condition = {name: value[:rows] for name, value in encoded.items()}
    noise = torch.randn(rows, *model.latent_shape)
    peaks["sample"], latents = peak_of(
        seen, lambda: model.sample(condition, condition, noise, 2, 4.5)
    )
    if is_first:
        peaks["exposure"], _ = peak_of(seen, lambda: off_path(model, condition, latents))
    many = latents[:4].repeat(_IMAGES // 4, 1, 1, 1)
    peaks["decode"], images = peak_of(seen, lambda: model.decode(many))
    assert [image.size for image in images] == [(resolution, resolution)] * _IMAGES
    peaks["encode_images"], given = peak_of(seen, lambda: model.encode_images(images))
    assert given.shape == (_IMAGES, *model.latent_shape)
    assert {t.device for t in (latents, given, *condition.values())} == {GPU}
    return {
        "rows": rows,
        "peaks": peaks,
        **phases(resolution, prompts, peaks),
        "waits": dict(seen.waits),
        "latents": str(latents.dtype),
        "encoded": str(given.dtype),
    }


def phases(
    resolution: int, prompts: Mapping[str, float], peaks: Mapping[str, float]
) -> dict[str, Mapping[str, float]]:
    """GB of encoding and of drawing, counted here and as planned."""
    words = ["model=sd35_medium", "method=sft", f"model.resolution={resolution}"]
    (demand,) = read_request(PlanOptions(), words).demands.values()
    architecture = demand.model.architecture()
    encoders = 2 * architecture.encoder_parameters / GB
    model = peaks["weights"] - encoders
    counted = {
        "encoding": max(
            encoders + max(prompts[f"encode_prompts {tokens}"] for tokens in _TOKENS),
            model + peaks["encode_images"],
        ),
        "drawing": model + max(peaks["sample"], peaks["decode"]),
    }
    with unset_fake_temporarily():
        meta = MetaModel(architecture, demand.model, demand.training)
        _, row = meta.forward()
        found = other_phases(demand, architecture, meta.parameters(), row)
    # Without judges, which are not loaded here, and what torch does not count.
    planned = {
        name: (found[name] / GB - CONTEXT_GB) / (1 + FRAGMENTATION) - demand.judges_gb
        for name in counted
    }
    return {"counted": counted, "planned": planned}
