"""The adapter around StableDiffusion3Pipeline, on a tiny pipeline of the same classes."""

import dataclasses
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from soarbench.common.errors import UserError
from soarbench.evaluation.seeds import evaluation_noise
from soarbench.models.pipeline import prompts_at_once
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Model
from tests.tiny import build_tiny_pipeline

PROMPTS = ["a photo of a red circle", "a photo of two stars", "a photo of a heart"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    directory = build_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    return Sd3Config(
        name="tiny",
        path=str(directory),
        resolution=64,
        max_sequence_length=0,
        load_text_encoder_3=False,
    )


@pytest.fixture(scope="module")
def model(config):
    return SD3Model.load(config)


def _sample(model, prompts, noise, guidance_scale=4.5):
    condition = model.encode_prompts(prompts)
    negative = model.encode_prompts([""] * len(prompts))
    return model.sample(
        condition, negative, noise, num_inference_steps=5, guidance_scale=guidance_scale
    )


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_samples_equal_the_pipelines_own_call_bit_for_bit(model, guidance_scale):
    noise = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    ours = _sample(model, PROMPTS, noise, guidance_scale)
    theirs = model.pipeline(
        PROMPTS,
        height=64,
        width=64,
        num_inference_steps=5,
        guidance_scale=guidance_scale,
        latents=noise,
        max_sequence_length=0,
        output_type="latent",
    ).images
    assert torch.equal(ours, theirs)


@pytest.fixture(scope="module")
def t5_model(tmp_path_factory):
    directory = build_tiny_pipeline(tmp_path_factory.mktemp("pipeline_t5"), has_t5=True)
    return SD3Model.load(
        Sd3Config(name="tiny", path=str(directory), resolution=64, max_sequence_length=12)
    )


def test_samples_with_t5_equal_the_pipelines_own_call_bit_for_bit(t5_model, model):
    noise = torch.randn(3, *t5_model.latent_shape, generator=torch.Generator().manual_seed(0))
    clip_tokens = model.encode_prompts(PROMPTS[:1])["prompt_embeds"].shape[1]
    condition = t5_model.encode_prompts(PROMPTS)
    assert condition["prompt_embeds"].shape[1] == clip_tokens + 12
    theirs = t5_model.pipeline(
        PROMPTS,
        height=64,
        width=64,
        num_inference_steps=5,
        guidance_scale=4.5,
        latents=noise,
        max_sequence_length=12,
        output_type="latent",
    ).images
    assert torch.equal(_sample(t5_model, PROMPTS, noise), theirs)


def test_t5_can_be_left_out_of_a_pipeline_that_has_it(t5_model):
    config = dataclasses.replace(t5_model.config, load_text_encoder_3=False, max_sequence_length=0)
    without = SD3Model.load(config)
    assert without.pipeline.text_encoder_3 is None
    noise = torch.randn(1, *without.latent_shape, generator=torch.Generator().manual_seed(0))
    sampled = _sample(without, PROMPTS[:1], noise)
    assert not torch.allclose(sampled, _sample(t5_model, PROMPTS[:1], noise), atol=1e-3)


def test_decoded_images_equal_the_pipelines_own(model):
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    ours = model.decode(_sample(model, PROMPTS[:2], noise))
    theirs = model.pipeline(
        PROMPTS[:2],
        height=64,
        width=64,
        num_inference_steps=5,
        guidance_scale=4.5,
        latents=noise,
        max_sequence_length=0,
    ).images
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_latents_that_are_not_finite_are_no_picture(model, value):
    latents = torch.zeros(2, *model.latent_shape)
    latents[1, 0, 0, 0] = value
    with pytest.raises(UserError, match=r"not finite.*sampling\.guidance_scale"):
        model.decode(latents)


class CountingVae:
    """Draws black images and keeps how many rows each call had."""

    dtype = torch.float32
    config = SimpleNamespace(scaling_factor=1.5305, shift_factor=0.0609)

    def __init__(self):
        self.rows = []

    def decode(self, latents, return_dict):
        assert not return_dict
        self.rows.append(len(latents))
        return (torch.zeros(len(latents), 3, 8, 8),)


@pytest.mark.parametrize(
    ("side", "count", "rows"),
    [(64, 65, [64, 1]), (512, 10, [4, 4, 2]), (1024, 3, [1, 1, 1]), (2048, 1, [1]), (512, 0, [0])],
)
def test_images_are_decoded_a_bounded_number_of_pixels_at_once(side, count, rows):
    def postprocess(drawn, output_type):
        assert output_type == "np"
        return np.zeros((len(drawn), 1, 1, 3))

    pipeline = SimpleNamespace(
        vae=CountingVae(),
        vae_scale_factor=8,
        transformer=None,
        image_processor=SimpleNamespace(postprocess=postprocess, numpy_to_pil=list),
    )
    model = SD3Model(pipeline, Sd3Config(name="x", path="y", resolution=side))
    latents = torch.zeros(1, 1, 1, 1).expand(count, 16, side // 8, side // 8)
    assert len(model.decode(latents)) == count
    assert pipeline.vae.rows == rows


@pytest.mark.parametrize(("tokens", "expected"), [(0, 64), (77, 64), (256, 64), (512, 32)])
def test_prompts_are_encoded_a_bounded_number_of_tokens_at_once(tokens, expected):
    assert prompts_at_once(tokens) == expected


def test_channels_last_is_of_the_autoencoder_alone_and_gives_about_the_same(model, config):
    option = dataclasses.replace(config, vae_channels_last=True)
    other = SD3Model.load(option)
    assert other.pipeline.vae.decoder.conv_in.weight.is_contiguous(
        memory_format=torch.channels_last
    )
    assert other.transformer.pos_embed.proj.weight.is_contiguous()
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (np.stack([np.asarray(i) for i in m.decode(noise)]) for m in (other, model))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    images = [Image.fromarray(pixels) for pixels in theirs]
    assert torch.allclose(other.encode_images(images), model.encode_images(images), atol=1e-4)
    # Other bits are other artefacts; those without it stay where they were.
    assert option.weights_digest() == f"{config.weights_digest()}+vae_channels_last"


def test_batch_size_and_order_do_not_change_an_image(model):
    plan = [(f"p/{i}", 0) for i in range(3)]
    together = _sample(model, PROMPTS, evaluation_noise(plan, model.latent_shape))
    order = [2, 0, 1]
    for i in order:
        alone = _sample(model, [PROMPTS[i]], evaluation_noise([plan[i]], model.latent_shape))
        assert torch.allclose(alone[0], together[i], atol=1e-4)


def test_the_timestep_is_a_thousand_times_sigma(model):
    seen = {}

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, *, timestep, hidden_states, **_):
            seen["timestep"] = timestep
            return (hidden_states,)

    condition = model.encode_prompts(PROMPTS[:1])
    model.velocity(Spy())(torch.zeros(1, *model.latent_shape), torch.tensor([0.25]), condition)
    assert seen["timestep"].item() == 250.0


def test_encoding_takes_the_mode_and_applies_scale_and_shift(model):
    image = Image.fromarray(np.full((64, 64, 3), 200, np.uint8))
    pixels = torch.full((1, 3, 64, 64), 200 / 255) * 2 - 1
    raw = model.pipeline.vae.encode(pixels).latent_dist.mode()
    expected = (raw - 0.0609) * 1.5305
    assert torch.allclose(model.encode_images([image]), expected, atol=1e-3)


def test_a_directory_that_is_no_pipeline_is_refused(tmp_path):
    config = Sd3Config(name="x", path=str(tmp_path), resolution=64)
    with pytest.raises(UserError, match=r"no model_index\.json"):
        config.source()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"_class_name": "StableDiffusionXLPipeline"}', "holds a StableDiffusionXLPipeline"),
        ("{}", "holds a None"),
        ("[1", "no JSON object"),
    ],
)
def test_a_directory_of_something_else_is_refused(tmp_path, index, message):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(UserError, match=message):
        Sd3Config(name="x", path=str(tmp_path), resolution=64).source()


def test_a_pipeline_with_a_missing_part_is_refused(tmp_path, config):
    shutil.copytree(config.path, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "transformer")
    with pytest.raises(UserError, match="cannot be loaded"):
        SD3Model.load(dataclasses.replace(config, path=str(tmp_path / "broken")))


@pytest.mark.parametrize(
    ("field", "value"), [("dtype", "int8"), ("resolution", 4), ("max_sequence_length", 1000)]
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        Sd3Config(**{"name": "x", "path": "y", "resolution": 64, field: value})
