"""The aesthetic head: its published file, its formula, its CLIP."""

import numpy as np
import pytest
import torch

from evaluators.clip.open_clip_models import load_open_clip
from evaluators.preference.aesthetic import AestheticConfig
from evaluators.preference.rating_head import AestheticHead, load_head, save_head
from evaluators.weights import WeightsError

PUBLISHED_SHAPES = {
    "layers.0.weight": (1024, 768),
    "layers.0.bias": (1024,),
    "layers.2.weight": (128, 1024),
    "layers.2.bias": (128,),
    "layers.4.weight": (64, 128),
    "layers.4.bias": (64,),
    "layers.6.weight": (16, 64),
    "layers.6.bias": (16,),
    "layers.7.weight": (1, 16),
    "layers.7.bias": (1,),
}


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return AestheticHead(24)


@pytest.fixture(scope="module")
def published_file(head, tmp_path_factory):
    """The head as the published file has it: a pickled state dict."""
    path = tmp_path_factory.mktemp("head") / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save(head.state_dict(), path)
    return path


def evaluator(folder, head_path, **values):
    config = AestheticConfig(weights=str(folder), head=str(head_path), device="cpu", **values)
    return config.build()


def test_keys_and_shapes_are_the_published_ones():
    state = AestheticHead(768).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == PUBLISHED_SHAPES


def test_scores_follow_the_formula(open_clip_dir, published_file, samples):
    parts = load_open_clip(open_clip_dir)
    state = {key: np.asarray(value) for key, value in torch.load(published_file).items()}
    pixels = torch.stack([parts.preprocess(sample.image) for sample in samples])
    with torch.no_grad():
        hidden = parts.model.encode_image(pixels).double().numpy()
    hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
    for layer in (0, 2, 4, 6, 7):
        hidden = hidden @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
    scores = evaluator(open_clip_dir, published_file).score(samples)
    np.testing.assert_allclose([score.value for score in scores], hidden[:, 0], atol=1e-6)
    assert np.ptp(hidden) > 1e-3


def test_file_directory_and_safetensors_give_the_same(
    open_clip_dir, published_file, head, samples, tmp_path
):
    save_head(tmp_path / "head.safetensors", head)
    judges = [
        evaluator(open_clip_dir, published_file),
        evaluator(open_clip_dir, published_file.parent),
        evaluator(open_clip_dir, tmp_path / "head.safetensors"),
        evaluator(open_clip_dir, tmp_path, head_file="head.safetensors"),
    ]
    values = [[score.value for score in judge.score(samples)] for judge in judges]
    assert values == [values[0]] * 4


def test_prompts_do_not_matter_and_dropout_is_off(open_clip_dir, published_file, samples):
    judge = evaluator(open_clip_dir, published_file, batch_size=4)
    first, second = (judge.score(samples) for _ in range(2))
    assert first == second


def test_the_head_must_belong_to_the_clip(published_file):
    with pytest.raises(WeightsError, match=r"width 24, but the CLIP gives 768"):
        load_head(published_file, 768)


def test_a_file_that_is_no_head_is_refused(open_clip_dir, tmp_path, samples):
    path = tmp_path / "head.pth"
    torch.save({"layers.0.weight": torch.zeros(1024, 24)}, path)
    with pytest.raises(WeightsError, match="missing"):
        evaluator(open_clip_dir, path).score(samples)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="hold a list"):
        evaluator(open_clip_dir, path).score(samples)
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(WeightsError, match="cannot read weights"):
        evaluator(open_clip_dir, path).score(samples)


def test_weights_hash_names_both_parts(open_clip_dir, published_file):
    clip, head = evaluator(open_clip_dir, published_file).weights_hash.split("+")
    assert len(clip) == len(head) == 64
    assert clip != head


def test_drawn_canaries_are_a_picture_and_noise():
    (canary,) = AestheticConfig().canaries()
    good, bad = (np.asarray(sample.image.convert("RGB")) for sample in (canary.good, canary.bad))
    assert good.shape == bad.shape == (512, 512, 3)
    assert good.std(axis=(0, 1)).min() > 10
    assert len(np.unique(bad)) > 200
