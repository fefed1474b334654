import json
import shutil

import open_clip
import pytest
import torch
from PIL import Image

from evaluators.geneval.colors import ColorClassifier, object_crop
from evaluators.geneval.prompts import COLORS
from evaluators.weights import WeightsError
from soarbench.benchmarks.tiny_detectors import save_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def classifier(folder):
    return ColorClassifier(folder, batch_size=2)


@pytest.fixture(scope="module")
def crops():
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for width, height in ((40, 20), (7, 31), (1, 1), (64, 64), (33, 12)):
        color = torch.rand(3, generator=generator)
        texture = 0.5 + torch.rand(height, width, 1, generator=generator)
        pixels = (170 * color * texture).to(torch.uint8)
        pictures.append(Image.fromarray(pixels.numpy()))
    return pictures


NAMES = ["dog", "cat", "dog", "stop sign", "cat"]


def one_at_a_time(folder, crops, names):
    """GenEval's way, with open_clip's own zero-shot classifier, one crop after the other."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    colors = []
    for crop, name in zip(crops, names, strict=True):
        templates = [
            f"a photo of a {{}} {name}",
            f"a photo of a {{}}-colored {name}",
            "a photo of a {} object",
        ]
        texts = open_clip.build_zero_shot_classifier(model, tokenizer, COLORS, templates)
        with torch.no_grad():
            image = model.encode_image(preprocess(crop)[None], normalize=True)
        colors.append(COLORS[int((100 * image @ texts).argmax())])
    return colors


def test_batched_colors_equal_the_published_way_one_at_a_time(classifier, folder, crops):
    expected = one_at_a_time(folder, crops, NAMES)
    assert len(set(expected)) > 1
    assert classifier.classify(crops, NAMES) == expected
    assert classifier.classify([], []) == []


def test_reduced_precision_runs(folder, crops):
    colors = ColorClassifier(folder, dtype=torch.bfloat16).classify(crops, NAMES)
    assert set(colors) <= set(COLORS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_colors_on_the_gpu(classifier, folder, crops):
    expected = classifier.classify(crops, NAMES)
    assert ColorClassifier(folder, device="cuda").classify(crops, NAMES) == expected


def test_crop_shows_the_object_on_grey():
    image = Image.new("RGB", (6, 4), (10, 200, 30))
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1:3, 2:5] = True
    mask[1, 2] = False
    crop = object_crop(image, mask, (2.0, 1.0, 5.0, 3.0))
    assert crop.size == (3, 2)
    assert crop.getpixel((0, 0)) == (153, 153, 153)
    assert crop.getpixel((1, 0)) == (10, 200, 30)


def test_crop_equals_compositing_the_whole_image_first():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (20, 30, 3), generator=generator, dtype=torch.uint8).numpy()
    image = Image.fromarray(pixels)
    mask = torch.rand(20, 30, generator=generator) > 0.5
    blank = Image.new("RGB", image.size, "#999")
    whole = Image.composite(image, blank, Image.fromarray(mask.numpy())).crop((3, 4, 20, 17))
    assert whole.tobytes() == object_crop(image, mask, (3, 4, 20, 17)).tobytes()


def test_quick_gelu_is_used_whatever_the_folder_says(folder, tmp_path, crops):
    silent = tmp_path / "silent"
    shutil.copytree(folder, silent)
    config = json.loads((silent / "open_clip_config.json").read_text())
    del config["model_cfg"]["quick_gelu"]
    (silent / "open_clip_config.json").write_text(json.dumps(config))
    loaded = ColorClassifier(str(silent))
    for tower in (loaded._clip.model.visual.transformer, loaded._clip.model.transformer):
        assert isinstance(tower.resblocks[0].mlp.gelu, open_clip.transformer.QuickGELU)
    assert loaded.classify(crops, NAMES) == one_at_a_time(folder, crops, NAMES)


def test_hash_identifies_the_weights(classifier, folder, tmp_path):
    other = ColorClassifier(save_clip(tmp_path / "other", seed=1))
    assert other.weights_hash != classifier.weights_hash
    shutil.copytree(folder, tmp_path / "copy")
    assert ColorClassifier(str(tmp_path / "copy")).weights_hash == classifier.weights_hash


def test_missing_weights_are_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for weights in ("nobody/no-such-clip", str(tmp_path)):
        with pytest.raises(WeightsError) as caught:
            ColorClassifier(weights)
        assert "\n" not in str(caught.value)
