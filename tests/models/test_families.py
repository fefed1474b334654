"""Every family beside SD3 against its own pipeline of diffusers, tiny and of the same classes."""

import copy
import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from baselines.flow import euler_sample
from soarbench.cli.evaluate import model_words
from soarbench.common.errors import ConfigError, UserError
from soarbench.config.composition import compose_choices
from soarbench.config.folders import options
from soarbench.grid.checks import check, check_model
from soarbench.models import pipeline_config
from soarbench.models.families import KNOWN
from tests.models.families import FAMILIES, PROMPTS, Flux2Klein


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    return Flux2Klein(tmp_path_factory.mktemp("klein")).model


def test_samples_equal_the_pipelines_own(family):
    ours = family.as_given(family.sampled(1.0))
    theirs = family.by_pipeline(1.0, "latent")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=family.tolerance)


def test_guided_images_equal_the_pipelines_own(family):
    ours = family.sampled(family.guidance_scale)
    theirs = family.by_pipeline(family.guidance_scale, "latent")
    # Both branches are one batch here and two calls there, and matrix products round differently.
    torch.testing.assert_close(family.as_given(ours), theirs, rtol=0, atol=1e-4)
    unguided = family.as_given(family.sampled(1.0))
    assert not torch.allclose(unguided, theirs, atol=1e-2)
    drawn = family.by_pipeline(family.guidance_scale, "pil")
    for mine, other in zip(family.model.decode(ours), drawn, strict=True):
        assert np.abs(np.asarray(mine, dtype=int) - np.asarray(other)).max() <= 1


def test_images_of_another_shape_equal_the_pipelines_own(family):
    model, wide = family.model, copy.copy(family)
    channels, height, width = model.latent_shape
    rng = torch.Generator().manual_seed(1)
    wide.noise = torch.randn(len(PROMPTS), channels, height, 2 * width, generator=rng)
    condition = model.encode_prompts(PROMPTS)
    if family.config.kind == "sana":
        ours = model.sample(condition, condition, wide.noise, 5, 1.0)
    else:
        # Of the shape's own schedule, as rows of a bucket have it.
        sigmas = model.schedule.sampling_sigmas(5, wide.noise.shape[1:])
        ours = euler_sample(model.velocity(), wide.noise, sigmas, condition, condition, 1.0)
    theirs = wide.by_pipeline(1.0, "latent")
    torch.testing.assert_close(wide.as_given(ours), theirs, rtol=0, atol=family.tolerance)
    (image, _) = model.decode(ours)
    assert image.size == (64, 32)
    assert model.encode_images([image]).shape[1:] == ours.shape[1:]


def test_encoding_undoes_decoding(family):
    model = family.model
    raw = model.encoded(torch.zeros(1, 3, 32, 32))
    scaled = model.scaled(raw)
    assert scaled.shape[1:] == model.latent_shape == family.config.architecture().latent_shape(32)
    torch.testing.assert_close(model.unscaled(scaled), raw)


def test_text_encoders_alone_and_kept_prompts_give_the_same(family):
    alone = family.config.load_encoders(torch.device("cpu")).encode(PROMPTS)
    whole = family.model.encode_prompts(PROMPTS)
    shapes = family.config.architecture().condition_shapes(family.config.max_sequence_length)
    assert {name: value.shape[1:] for name, value in alone.items()} == shapes
    assert all(torch.equal(value, whole[name]) for name, value in alone.items())
    kept = SimpleNamespace(encode=lambda _: alone)
    without = family.config.load("cpu", kept)
    assert without.pipeline.text_encoder is None
    assert without.encode_prompts(PROMPTS) is alone


def test_prompts_are_kept_apart_by_encoder_template_and_length(family, monkeypatch):
    config, other = family.config, "sana" if family.config.kind != "sana" else "z_image"
    changes = ({"max_sequence_length": 17}, {"dtype": "bfloat16"}, {"path": "owner/name"})
    digests = {dataclasses.replace(config, **change).encoder_digest() for change in changes}
    digests.add(config.encoder_digest())
    # The same files, used as another family or another release of diffusers uses them.
    with monkeypatch.context() as patch:
        patch.setattr(type(config), "kind", other)
        digests.add(config.encoder_digest())
    monkeypatch.setattr(pipeline_config, "version", lambda _: "0")
    assert len(digests | {config.encoder_digest()}) == len(changes) + 3


def test_a_longer_text_is_cut_to_its_length(family):
    config = dataclasses.replace(family.config, max_sequence_length=24)
    encoders = config.load_encoders(torch.device("cpu"))
    longest = encoders.encode(["a", "b" * 200])
    shapes = config.architecture().condition_shapes(24)
    assert {name: value.shape[1:] for name, value in longest.items()} == shapes
    with pytest.raises(ValueError, match=r"max_sequence_length=0: must be 1\.\.512"):
        dataclasses.replace(config, max_sequence_length=0)


class Spy(torch.nn.Module):
    """Answers with its own input, and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states, timestep, _texts=None, **asked):
        self.time, self.asked = timestep, asked
        return (hidden_states,)


#: What the transformer is told at level 0.25. Z-Image's time runs from noise to image, and its
#: answer with it.
TIMES = {"flux2_klein": 0.25, "sana": 250.0, "z_image": 0.75, "qwen_image": 0.25}


def test_the_velocity_has_its_sign_and_time(family):
    sign, time = (-1 if family.config.kind == "z_image" else 1), TIMES[family.config.kind]
    spy, sigma = Spy(), torch.tensor([0.25, 0.25])
    condition = family.model.encode_prompts(PROMPTS)
    velocity = family.model.velocity(spy)(family.noise, sigma, condition)
    assert torch.equal(velocity, sign * family.noise)
    assert spy.time.tolist() == [time, time]


def test_flux2_tokens_are_latents_row_by_row(klein):
    spy, rng = Spy(), torch.Generator().manual_seed(0)
    latents = torch.randn(2, 32, 3, 5, generator=rng)
    condition = {"prompt_embeds": torch.zeros(2, 7, 24)}
    assert torch.equal(klein.velocity(spy)(latents, torch.tensor([0.25, 1.0]), condition), latents)
    assert spy.asked["img_ids"][7].tolist() == [0, 1, 2, 0]
    assert spy.asked["txt_ids"][6].tolist() == [0, 0, 0, 6]
    with torch.no_grad():
        rows = klein.pipeline._prepare_latent_ids(latents)[0]
        words = klein.pipeline._prepare_text_ids(condition["prompt_embeds"])[0]
    assert torch.equal(spy.asked["img_ids"], rows)
    assert torch.equal(spy.asked["txt_ids"], words)


@pytest.mark.parametrize(("side", "steps", "mu"), [(64, 50, 2.0234), (32, 50, 1.7020)])
def test_flux2_shift_follows_size_and_steps(klein, side, steps, mu):
    schedule, shape = klein.schedule, (128, side, side)
    assert schedule.shift(shape) == pytest.approx(math.exp(mu), rel=1e-3)
    # exp(mu) / (exp(mu) + 1 / t - 1) of evenly spaced t, 1 first.
    t = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    by_hand = math.exp(mu) / (math.exp(mu) + 1 / t - 1)
    sigmas = schedule.sampling_sigmas(steps, shape)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    torch.testing.assert_close(sigmas[:-1].double(), by_hand, rtol=0, atol=1e-4)


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


#: What is done to a directory, and what is said of it.
DAMAGE = {
    "no tokenizer": (lambda path: shutil.rmtree(path / "tokenizer"), "no tokenizer/ there"),
    "no files of a tokenizer": (
        lambda path: [file.unlink() for file in (path / "tokenizer").iterdir()],
        "nothing in tokenizer/",
    ),
    "no weights": (
        lambda path: [file.unlink() for file in (path / "transformer").glob("*.safetensors")],
        "no weights in transformer/",
    ),
    "no second part of the weights": (
        lambda path: (path / "transformer/x.safetensors.index.json").write_text(
            '{"weight_map": {"a": "x-1-of-2.safetensors"}}'
        ),
        r"no transformer/x-1-of-2\.safetensors there",
    ),
    "another family's": (
        lambda path: edit(path / "model_index.json", _class_name="StableDiffusion3Pipeline"),
        r"holds a StableDiffusion3Pipeline.*model=NAME",
    ),
    "another family's transformer": (
        lambda path: edit(path / "transformer/config.json", _class_name="SD3Transformer2DModel"),
        "transformer/ holds a SD3Transformer2DModel",
    ),
    "no sizes": (
        lambda path: (path / "transformer/config.json").write_text("{}"),
        "has no usable '[a-z_]+'",
    ),
    "guidance as an input": (
        lambda path: edit(path / "transformer/config.json", guidance_embeds=True),
        r"\(guidance_embeds\)",
    ),
}


def dry_run(config):
    """As the first thing that a dry run asks of a model."""
    settings = compose_choices(["grid=reward_specific", "data=lab_general"]).settings()
    check_model(dataclasses.replace(settings, model=config))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_directory_of_another_family_or_without_a_part_is_refused(family, tmp_path, damage):
    path = tmp_path / "copy"
    shutil.copytree(family.config.path, path)
    config = dataclasses.replace(family.config, path=str(path))
    # Qwen-Image's published one has such a key of an older release.
    edit(path / "transformer/config.json", pooled_projection_dim=768)
    dry_run(config)
    (weights,) = (path / "transformer").glob("*.safetensors")
    shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
    sizes = config.architecture()
    assert sizes.stored_parameters == family.config.architecture().stored_parameters
    assert sizes.transformer().dtype == torch.float32
    spoil, message = DAMAGE[damage]
    spoil(path)
    with pytest.raises(UserError, match=message) as refusal:
        dry_run(config)
    assert len(str(refusal.value)) <= 300


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("stabilityai/stable-diffusion-3.5-large", "another family than .*choose model=sd35_large"),
        ("a/b/c", "neither a directory nor a hub id"),
        ("owner/cached", "holds a StableDiffusion3Pipeline.*model=NAME"),
    ],
)
def test_a_hub_id_of_another_family_is_refused_without_the_hub(
    family, tmp_path, monkeypatch, path, message
):
    index = tmp_path / "model_index.json"
    index.write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    cached = {"owner/cached": str(index)}
    find = huggingface_hub.try_to_load_from_cache

    def look(repo, name, **keywords):
        return cached.get(repo) or find(repo, name, **keywords)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    dry_run(dataclasses.replace(family.config, path="owner/unknown"))
    with pytest.raises(UserError, match=message) as refusal:
        dry_run(dataclasses.replace(family.config, path=path))
    assert len(str(refusal.value)) <= 300


def test_a_size_that_tokens_do_not_divide_is_refused(family):
    sizes = family.config.architecture()
    with pytest.raises(ConfigError, match=f"multiple of {sizes.unit}.*use {sizes.unit}"):
        sizes.latent_shape(sizes.unit + 1)
    for side, nearest in ((1, sizes.unit), (10**6, sizes.largest_image)):
        with pytest.raises(ConfigError, match=f"say model.resolution={nearest}, or what"):
            sizes.latent_shape(side)


def test_an_encoded_image_is_scaled_as_published(family):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    model = family.model
    pipeline, vae = model.pipeline, model.pipeline.vae
    tensor = torch.from_numpy(pixels / 127.5 - 1).float().movedim(-1, 0)[None]
    theirs = {
        "flux2_klein": lambda: pipeline._encode_vae_image(tensor, None),
        "sana": lambda: vae.encode(tensor).latent * 0.41407,
        "z_image": lambda: (vae.encode(tensor).latent_dist.mode() - 0.1159) * 0.3611,
        # Mean 0.5 and deviation 2 of every channel.
        "qwen_image": lambda: (
            (vae.encode(tensor[:, :, None]).latent_dist.mode()[:, :, 0] - 0.5) / 2
        ),
    }[family.config.kind]()
    ours = model.encode_images([Image.fromarray(pixels)])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


#: How weights that were distilled to a few steps are known in a directory, where they can be.
DISTILLED = {
    "flux2_klein": ("flux2_klein_4b_distilled", "model_index.json", {"is_distilled": True}),
    "z_image": ("z_image_turbo", "scheduler/scheduler_config.json", {"shift": 3.0}),
}


@pytest.mark.parametrize("family", DISTILLED, indirect=True)
def test_guidance_of_distilled_weights_is_refused(family, tmp_path):
    name, file, values = DISTILLED[family.config.kind]
    path = tmp_path / "copy"
    shutil.copytree(family.config.path, path)
    assert not dataclasses.replace(family.config, path=str(path)).architecture().is_distilled
    edit(path / file, **values)
    assert dataclasses.replace(family.config, path=str(path)).architecture().is_distilled
    assert model_words(str(path))[0] == f"model={name}"
    for words in ([f"model={name}"], model_words(str(path))):
        choices = [*words, "grid=reward_specific", "data=lab_general", "model.resolution=32"]
        settings = compose_choices([*choices, "method=soar"]).settings()
        check(settings, "soar")
        guided = dataclasses.replace(settings.method, guidance_scale=4.5)
        with pytest.raises(ConfigError, match=r"method\.guidance_scale=4\.5.*scale=1") as refusal:
            check(dataclasses.replace(settings, method=guided), "soar")
        assert len(str(refusal.value).replace(str(path), "")) <= 300
        sampling = dataclasses.replace(settings.sampling, guidance_scale=4.0)
        with pytest.raises(ConfigError, match=r"sampling\.guidance_scale=4\.0"):
            check_model(dataclasses.replace(settings, sampling=sampling))


def test_a_saved_pipeline_takes_its_familys_settings(family):
    words = model_words(family.config.path)
    settings = dict(word.split("=", 1) for word in words)
    assert settings["model"] in options("model")
    chosen = compose_choices(["grid=reward_specific", f"model={settings['model']}"]).settings()
    assert type(chosen.model) is type(family.config)
    assert settings["model.revision"] == "null"


@pytest.mark.parametrize(("path", "name"), KNOWN.items())
def test_every_known_hub_id_has_a_configuration_of_its_size(path, name):
    settings = compose_choices(["grid=reward_specific", f"model={name}"]).settings()
    assert settings.model.path == path
    sizes = settings.model.architecture()
    with torch.device("meta"):
        numbers = sum(p.numel() for p in sizes.transformer().parameters())
    # SD3's files hold its fixed position embedding, too.
    assert sizes.stored_parameters == pytest.approx(numbers, rel=0.11)
    assert name.startswith("sd3") or sizes.stored_parameters == numbers
