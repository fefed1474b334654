"""PickScore: the scale in its name, and its processor apart from its weights."""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from evaluators.preference.pickscore import PickScoreConfig
from evaluators.weights import WeightsError


@pytest.fixture(scope="module")
def apart(transformers_clip_dir, tmp_path_factory):
    """The weights' directory and the processor's, as published."""
    root = tmp_path_factory.mktemp("pickscore")
    names = {"config.json", "model.safetensors"}
    for part in ("weights", "processor"):
        (root / part).mkdir()
    for path in transformers_clip_dir.iterdir():
        shutil.copy(path, root / ("weights" if path.name in names else "processor"))
    return root


def evaluator(root, **values):
    folders = {"weights": str(root / "weights"), "processor": str(root / "processor")}
    return PickScoreConfig(**{**folders, "device": "cpu", **values}).build()


def test_scores_are_logit_scale_times_cosine(apart, samples):
    model = CLIPModel.from_pretrained(apart / "weights")
    processor = AutoImageProcessor.from_pretrained(apart / "processor", backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(apart / "processor")
    prompts = [sample.prompt for sample in samples]
    with torch.no_grad():
        output = model(
            **tokenizer(prompts, padding=True, return_tensors="pt"),
            **processor(images=[sample.image for sample in samples], return_tensors="pt"),
        )
    images, texts = output.image_embeds.numpy(), output.text_embeds.numpy()
    cosine = (images * texts).sum(1)
    cosine /= np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    scale = np.exp(model.logit_scale.item())
    found = [score.value for score in evaluator(apart).score(samples)]
    np.testing.assert_allclose(found, scale * cosine, atol=1e-5)
    np.testing.assert_allclose(found, output.logits_per_image.diagonal(), atol=1e-5)
    assert scale > 10


def test_the_scale_is_printed_with_the_number():
    assert PickScoreConfig.unit == "logit scale x cosine"
    assert PickScoreConfig.value_range == (-100.0, 100.0)


def test_an_empty_processor_takes_the_files_beside_the_weights(
    apart, transformers_clip_dir, samples
):
    config = PickScoreConfig(weights=str(transformers_clip_dir), processor="", device="cpu")
    assert config.build().score(samples) == evaluator(apart).score(samples)


def test_another_processor_is_another_fingerprint(apart, tmp_path):
    shutil.copytree(apart / "processor", tmp_path / "other")
    path = tmp_path / "other" / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.48145466", "0.5"))
    first, other = evaluator(apart), evaluator(apart, processor=str(tmp_path / "other"))
    assert first.weights_hash != other.weights_hash


def test_a_missing_processor_is_refused(apart):
    with pytest.raises(WeightsError, match="processor"):
        evaluator(apart, processor=str(apart / "nowhere")).config.load()
    with pytest.raises(WeightsError, match="no CLIP that transformers loads"):
        evaluator(apart, processor=str(apart / "weights")).config.load()
