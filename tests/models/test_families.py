"""Every family beside SD3 against its own pipeline of diffusers, tiny and of the same classes."""

import dataclasses
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.base import World
from baselines.config import LoraConfig, OptimConfig
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.loop.post_train import post_train
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig
from soarbench.common.errors import ConfigError, UserError
from soarbench.models.flux2_klein.config import Flux2KleinConfig
from tests.baselines.toys import Logs, run_config
from tests.tiny_families import build_flux2_klein

PROMPTS = ["a photo of a red circle", "a heart"]


class Family:
    """A configuration of tiny weights, and how its pipeline is called."""

    guidance_scale = 4.0

    def __init__(self, config, **call):
        self.config = config
        self.model = config.load("cpu")
        self.call = {"height": 32, "width": 32, "num_inference_steps": 5, **call}

    @property
    def noise(self):
        rng = torch.Generator().manual_seed(0)
        return torch.randn(len(PROMPTS), *self.model.latent_shape, generator=rng)

    def sampled(self, guidance_scale):
        condition = self.model.encode_prompts(PROMPTS)
        negative = self.model.encode_prompts([""] * len(PROMPTS))
        return self.model.sample(condition, negative, self.noise, 5, guidance_scale)

    def by_pipeline(self, guidance_scale, output_type):
        call = {"guidance_scale": guidance_scale, "latents": self.noise, **self.call}
        return self.model.pipeline(prompt=PROMPTS, output_type=output_type, **call).images


def flux2_klein(folder):
    settings = {"resolution": 32, "max_sequence_length": 40}
    config = Flux2KleinConfig(name="tiny", path=str(build_flux2_klein(folder)), **settings)
    return Family(config, max_sequence_length=40)


FAMILIES = {"flux2_klein": flux2_klein}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


def test_samples_equal_the_pipelines_own_bit_for_bit(family):
    ours = family.model.unscaled(family.sampled(1.0))
    assert torch.equal(ours, family.by_pipeline(1.0, "latent"))


def test_guided_images_equal_the_pipelines_own(family):
    ours = family.sampled(family.guidance_scale)
    theirs = family.by_pipeline(family.guidance_scale, "latent")
    # Both branches are one batch here and two calls there, and matrix products round differently.
    torch.testing.assert_close(family.model.unscaled(ours), theirs, rtol=0, atol=1e-4)
    unguided = family.model.unscaled(family.sampled(1.0))
    assert not torch.allclose(unguided, theirs, atol=1e-2)
    drawn = family.by_pipeline(family.guidance_scale, "pil")
    for mine, other in zip(family.model.decode(ours), drawn, strict=True):
        assert np.abs(np.asarray(mine, dtype=int) - np.asarray(other)).max() <= 1


def test_encoding_undoes_decoding(family):
    model = family.model
    raw = model.pipeline.vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mode()
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


class Spy(torch.nn.Module):
    """Answers with its own input, and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, *, hidden_states, **asked):
        self.asked = asked
        return (hidden_states,)


def test_flux2_tokens_are_latents_row_by_row_and_time_is_sigma(tmp_path_factory):
    model = flux2_klein(tmp_path_factory.mktemp("klein")).model
    spy, rng = Spy(), torch.Generator().manual_seed(0)
    latents = torch.randn(2, 32, 3, 5, generator=rng)
    condition = {"prompt_embeds": torch.zeros(2, 7, 24)}
    # What the model answers is the velocity, in its own order.
    assert torch.equal(model.velocity(spy)(latents, torch.tensor([0.25, 1.0]), condition), latents)
    # Of which it makes a thousand times as much.
    assert spy.asked["timestep"].tolist() == [0.25, 1.0]
    assert spy.asked["img_ids"][7].tolist() == [0, 1, 2, 0]
    assert spy.asked["txt_ids"][6].tolist() == [0, 0, 0, 6]
    with torch.no_grad():
        rows = model.pipeline._prepare_latent_ids(latents)[0]
        words = model.pipeline._prepare_text_ids(condition["prompt_embeds"])[0]
    assert torch.equal(spy.asked["img_ids"], rows)
    assert torch.equal(spy.asked["txt_ids"], words)


@pytest.mark.parametrize(("side", "steps", "mu"), [(64, 50, 2.0234), (32, 50, 1.7020)])
def test_flux2_shift_follows_size_and_steps(tmp_path_factory, side, steps, mu):
    schedule = flux2_klein(tmp_path_factory.mktemp("klein")).model.schedule
    shape = (128, side, side)
    assert schedule.shift(shape) == pytest.approx(math.exp(mu), rel=1e-3)
    # exp(mu) / (exp(mu) + 1 / t - 1) of evenly spaced t, 1 first.
    t = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    by_hand = math.exp(mu) / (math.exp(mu) + 1 / t - 1)
    sigmas = schedule.sampling_sigmas(steps, shape)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    torch.testing.assert_close(sigmas[:-1].double(), by_hand, rtol=0, atol=1e-4)


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
METHODS = {
    "sft": (SftConfig(condition_dropout=0.5), None),
    "soar": (SoarConfig(num_aux_points=2, num_rollout_paths=2), LORA),
    "flow_grpo": (
        FlowGrpoConfig(group_size=2, num_inference_steps=2, kl_coeff=0.1, updates_per_collection=1),
        LORA,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_train_it_and_an_interruption_changes_no_bit(family, tmp_path, name):
    config, lora = METHODS[name]
    rows, folder = Rows(family), tmp_path

    def trained(place, **options):
        model = family.config.load("cpu", SimpleNamespace())
        world = World(schedule=model.schedule, latent_shape=model.latent_shape, reward=brightness)
        post_train(
            model.transformer,
            config.build(world),
            rows,
            folder=folder / place,
            **run_config(
                steps=3,
                batch_size=2,
                save_steps=1,
                optim=OptimConfig(learning_rate=1e-2),
                lora=None if lora is None else family.config.adapted(lora),
            ),
            velocity_of=model.velocity,
            negative_condition=family.model.encode_prompts([""]),
            on_log=Logs(**options),
        )
        return {k: v.detach().clone() for k, v in model.transformer.state_dict().items()}

    straight = trained("straight")
    with pytest.raises(KeyboardInterrupt):
        trained("cut", stop_at=2)
    resumed = trained("cut")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    first = family.model.transformer.state_dict()
    moved = {
        key for key, value in straight.items() if ("lora_B" in key and bool(value.any()))
        or (key in first and not torch.equal(value, first[key]))
    }  # fmt: skip
    # All of an adapter's layers, or nearly all weights.
    assert len(moved) >= (10 if lora else 0.8 * len(first))


def test_a_directory_of_another_family_or_without_a_part_is_refused(family, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(family.config.path, path)
    config = dataclasses.replace(family.config, path=str(path))
    config.check_source()
    shutil.rmtree(path / "tokenizer")
    with pytest.raises(UserError, match=r"no tokenizer/ there") as refusal:
        config.check_source()
    assert len(str(refusal.value)) <= 300
    (path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(UserError, match=r"holds a StableDiffusion3Pipeline.*model=NAME"):
        config.check_source()


def test_a_size_that_tokens_do_not_divide_is_refused(family):
    sizes = family.config.architecture()
    with pytest.raises(ConfigError, match=f"multiple of {sizes.unit}.*use {sizes.unit}"):
        sizes.latent_shape(sizes.unit + 1)


def test_an_encoded_image_is_as_the_pipeline_encodes_it(family):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ours = family.model.encode_images([image])
    pipeline = family.model.pipeline
    theirs = pipeline._encode_vae_image(pipeline.image_processor.preprocess([image]), None)
    assert torch.equal(ours, theirs)
