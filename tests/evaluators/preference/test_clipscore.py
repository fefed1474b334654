"""CLIPScore against open_clip's and transformers' own code, and what it refuses."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from evaluators.base import EvaluatorError, Sample
from evaluators.clip.open_clip_models import (
    build_open_clip,
    image_preprocess,
    load_open_clip,
)
from evaluators.preference.clipscore import ClipScoreConfig
from evaluators.weights import WeightsError


def evaluator(folder, **values):
    return ClipScoreConfig(weights=str(folder), device="cpu", **values).build()


def numbers(scores):
    return np.array([score.value for score in scores])


def cosines(images, texts):
    """Row by row, in float64, without torch's help."""
    images, texts = (np.asarray(x.detach(), dtype=np.float64) for x in (images, texts))
    norms = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    return (images * texts).sum(1) / norms


def test_open_clip_directory_gives_open_clips_own_cosines(open_clip_dir, samples):
    name = f"local-dir:{open_clip_dir}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)([sample.prompt for sample in samples])
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([preprocess(s.image) for s in samples]))
        expected = cosines(images, model.encode_text(tokens))
    scores = evaluator(open_clip_dir).score(samples)
    np.testing.assert_allclose(numbers(scores), expected, atol=1e-6)
    assert [score.sample_id for score in scores] == [sample.sample_id for sample in samples]
    assert np.ptp(expected) > 0.05


def test_transformers_directory_gives_transformers_own_cosines(transformers_clip_dir, samples):
    model = CLIPModel.from_pretrained(transformers_clip_dir)
    processor = AutoImageProcessor.from_pretrained(transformers_clip_dir, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(transformers_clip_dir)
    expected = []
    for sample in samples:
        with torch.no_grad():
            output = model(
                **tokenizer(sample.prompt, return_tensors="pt"),
                **processor(images=sample.image, return_tensors="pt"),
            )
        expected.append((output.logits_per_image / model.logit_scale.exp()).item())
    found = numbers(evaluator(transformers_clip_dir).score(samples))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.ptp(expected) > 0.05


def test_the_published_transform_resizes_floats_as_flow_grpo_does(transformers_clip_dir, samples):
    model = CLIPModel.from_pretrained(transformers_clip_dir)
    tokenizer = AutoTokenizer.from_pretrained(transformers_clip_dir)
    steps = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop((32, 32)),
            transforms.Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
        ]
    )
    expected = []
    for sample in samples:
        levels = torch.from_numpy(np.array(sample.image)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            tokens = tokenizer(sample.prompt, return_tensors="pt")
            output = model(pixel_values=steps(levels), **tokens)
        expected.append((output.logits_per_image / model.logit_scale.exp()).item())
    published = numbers(evaluator(transformers_clip_dir, transform="published").score(samples))
    np.testing.assert_allclose(published, expected, atol=1e-6)
    own = numbers(evaluator(transformers_clip_dir).score(samples))
    resized = np.array([min(sample.image.size) != 32 for sample in samples])
    assert (np.abs(own - published) > 1e-5).tolist() == resized.tolist()


@pytest.mark.parametrize("layout", ["open_clip_dir", "transformers_clip_dir"])
def test_batches_do_not_change_scores(layout, samples, request):
    folder = request.getfixturevalue(layout)
    together = numbers(evaluator(folder, batch_size=6).score(samples))
    apart = numbers(evaluator(folder, batch_size=1).score(samples))
    np.testing.assert_allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize("layout", ["open_clip_dir", "transformers_clip_dir"])
def test_bfloat16_is_near_float32(layout, samples, request):
    folder = request.getfixturevalue(layout)
    exact = numbers(evaluator(folder).score(samples))
    rough = numbers(evaluator(folder, dtype="bfloat16").score(samples))
    np.testing.assert_allclose(rough, exact, atol=0.03)
    assert (rough != exact).any()


def test_images_of_any_mode_are_scored_as_rgb(open_clip_dir, samples):
    judge = evaluator(open_clip_dir)
    grey = samples[0].image.convert("L")
    pair = [
        Sample(sample_id=mode, prompt_id="", prompt="a star", image=grey.convert(mode))
        for mode in ("L", "RGB", "P")
    ]
    values = numbers(judge.score(pair))
    np.testing.assert_allclose(values, values[0], atol=1e-6)


def test_a_number_that_is_not_finite_is_unscored(open_clip_dir, samples, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(open_clip_dir, folder)
    path = folder / "open_clip_model.safetensors"
    state = load_file(path)
    state["visual.proj"] = torch.full_like(state["visual.proj"], torch.inf)
    save_file(state, path)
    score = evaluator(folder).score(samples[:1])[0]
    assert np.isnan(score.value)
    assert "nan" in score.reason


def test_works_offline_from_the_hub_cache(open_clip_dir, samples, tmp_path, monkeypatch):
    repo = tmp_path / "models--own--clip"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    shutil.copytree(open_clip_dir, repo / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = evaluator("own/clip")
    local = evaluator(open_clip_dir)
    assert numbers(found.score(samples)).tolist() == numbers(local.score(samples)).tolist()
    assert found.weights_hash == local.weights_hash


def test_weights_hash_changes_with_the_weights(open_clip_dir, transformers_clip_dir, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(open_clip_dir, folder)
    path = folder / "open_clip_model.safetensors"
    state = load_file(path)
    state["logit_scale"] = state["logit_scale"] + 1
    save_file(state, path)
    hashes = {evaluator(f).weights_hash for f in (open_clip_dir, transformers_clip_dir, folder)}
    assert len(hashes) == 3


def copy_with(folder, target, change):
    """A copy of an open_clip directory with its state dict changed."""
    shutil.copytree(folder, target)
    path = target / "open_clip_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("logit_scale"), "logit_scale is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is unknown"),
        # open_clip's own loader would interpolate this one without a word.
        (
            lambda state: state.update({"visual.positional_embedding": torch.zeros(5, 32)}),
            r"visual.positional_embedding is \(5, 32\), not \(17, 32\)",
        ),
    ],
)
def test_weights_of_another_shape_are_refused(open_clip_dir, tmp_path, change, message):
    folder = copy_with(open_clip_dir, tmp_path / "changed", change)
    with pytest.raises(WeightsError, match=message) as caught:
        evaluator(folder).config.load()
    assert "\n" not in str(caught.value)


def test_transformers_weights_that_do_not_fit_are_refused(transformers_clip_dir, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(transformers_clip_dir, folder)
    state = load_file(folder / "model.safetensors")
    state.pop("visual_projection.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"do not fit.*visual_projection\.weight"):
        evaluator(folder).config.load()


@pytest.mark.parametrize("missing", ["open_clip_model.safetensors", "tokenizer.json"])
def test_incomplete_directories_are_refused(open_clip_dir, tmp_path, missing):
    folder = tmp_path / "incomplete"
    shutil.copytree(open_clip_dir, folder)
    (folder / missing).unlink()
    with pytest.raises(WeightsError, match=str(folder)):
        evaluator(folder).config.load()


def test_unreadable_files_are_refused(open_clip_dir, tmp_path):
    folder = tmp_path / "unreadable"
    shutil.copytree(open_clip_dir, folder)
    (folder / "open_clip_model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(WeightsError, match="cannot read weights"):
        evaluator(folder).config.load()
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot read"):
        evaluator(folder).config.load()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"width": 3}}))
    with pytest.raises(WeightsError, match="refuses model_cfg"):
        evaluator(folder).config.load()


def test_an_empty_directory_is_one_line(tmp_path):
    with pytest.raises(WeightsError, match=r"open_clip_config\.json"):
        evaluator(tmp_path).config.load()


def test_saving_and_loading_keeps_the_model(open_clip_dir, open_clip_config):
    parts = load_open_clip(open_clip_dir)
    fresh = build_open_clip(open_clip_config)
    fresh.load_state_dict(parts.model.state_dict())
    picture = Image.new("RGB", (40, 64), "red")
    pixels = image_preprocess(open_clip_config)(picture)
    assert torch.equal(pixels, parts.preprocess(picture))
    assert pixels.shape == (3, 32, 32)
    expected = fresh.eval().encode_image(pixels[None])
    torch.testing.assert_close(parts.model.encode_image(pixels[None]), expected)
    assert not any(parameter.requires_grad for parameter in parts.model.parameters())


def test_canaries_in_the_wrong_order_refuse_to_score(open_clip_dir, samples, canary_of):
    judge = evaluator(open_clip_dir)
    values = numbers(judge.score(samples))
    best, worst = samples[values.argmax()], samples[values.argmin()]
    judge.canaries = lambda: [canary_of(best, worst)]
    judge.check_canaries()
    judge.canaries = lambda: [canary_of(worst, best)]
    with pytest.raises(EvaluatorError, match="clipscore"):
        judge.check_canaries()


def test_drawn_canaries_differ_in_their_prompts_alone():
    for canary in ClipScoreConfig().canaries():
        assert canary.good.prompt != canary.bad.prompt
        assert canary.good.image.tobytes() == canary.bad.image.tobytes()


@pytest.mark.parametrize(
    "values", [{"weights": ""}, {"batch_size": 0}, {"dtype": "int8"}, {"transform": "cubic"}]
)
def test_impossible_configs_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        ClipScoreConfig(**values)
