"""HPS v2.1: its checkpoint's form, its padded square, its cosine."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from evaluators.clip.open_clip_models import load_open_clip
from evaluators.preference.hpsv21 import (
    HpsConfig,
    architecture_config,
    padded_square,
)
from evaluators.weights import WeightsError

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None]


@pytest.fixture(scope="module")
def checkpoint(open_clip_dir, tmp_path_factory):
    """The weights as published: a pickle whose ``state_dict`` is open_clip's."""
    path = tmp_path_factory.mktemp("hps") / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": load_file(open_clip_dir / "open_clip_model.safetensors")}, path)
    return path


def evaluator(checkpoint, folder, **values):
    config = HpsConfig(weights=str(checkpoint), architecture=str(folder), device="cpu", **values)
    return config.build()


def test_scores_are_cosines_of_padded_squares(checkpoint, open_clip_dir, samples):
    parts = load_open_clip(open_clip_dir)
    found = [score.value for score in evaluator(checkpoint, open_clip_dir).score(samples)]
    for value, sample in zip(found, samples, strict=True):
        with torch.no_grad():
            image = parts.model.encode_image(padded_square(sample.image, 32)[None])[0].numpy()
            text = parts.model.encode_text(parts.tokenizer([sample.prompt]))[0].numpy()
        cosine = image @ text / np.linalg.norm(image) / np.linalg.norm(text)
        assert value == pytest.approx(cosine, abs=1e-6)
    assert np.ptp(found) > 0.05


def test_directory_and_dtype(checkpoint, open_clip_dir, samples):
    exact = evaluator(checkpoint.parent, open_clip_dir).score(samples)
    rough = evaluator(checkpoint, open_clip_dir, dtype="bfloat16").score(samples)
    for one, other in zip(exact, rough, strict=True):
        assert other.value == pytest.approx(one.value, abs=0.03)


def test_a_wide_image_is_resized_by_its_longest_side_and_padded():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 80, 3), dtype=np.uint8))
    found = padded_square(image, 32).numpy() * STD + MEAN
    pixels = torch.from_numpy(np.asarray(image) / 255.0).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        pixels, size=(8, 32), mode="bicubic", antialias=True
    )[0].numpy()
    np.testing.assert_allclose(found[:, 12:20], expected, atol=1e-5)
    np.testing.assert_allclose(found[:, :12], 0, atol=1e-6)
    np.testing.assert_allclose(found[:, 20:], 0, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (500, 1), (31, 90)])
def test_any_image_becomes_the_square(size):
    assert padded_square(Image.new("RGB", size, "white"), 32).shape == (3, 32, 32)


def test_an_image_of_the_right_size_is_only_normalised():
    image = Image.new("RGB", (32, 32), (255, 0, 51))
    expected = (np.array([1.0, 0.0, 0.2])[:, None, None] - MEAN) / STD
    found = padded_square(image, 32).numpy()
    np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 32, 32)), atol=1e-6)


def test_published_architecture_is_open_clips():
    model_cfg = architecture_config(HpsConfig().architecture)["model_cfg"]
    assert model_cfg["embed_dim"] == 1024
    assert model_cfg["vision_cfg"]["layers"] == 32
    with pytest.raises(WeightsError, match="ViT-H-14"):
        architecture_config("ViT-Z-99")


def test_another_models_checkpoint_is_refused(open_clip_dir, tmp_path):
    path = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": {"visual.proj": torch.zeros(2, 2)}}, path)
    with pytest.raises(WeightsError, match="of another shape"):
        evaluator(path, open_clip_dir).config.load()
