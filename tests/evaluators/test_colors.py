import open_clip
import pytest
import torch
from PIL import Image
from tiny_detectors import save_clip

from evaluators.base import EvaluatorError
from evaluators.colors import ColorClassifier, module_hash, object_crop
from evaluators.geneval_prompts import COLORS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def crops():
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for width, height in ((40, 20), (7, 31), (1, 1), (64, 64), (33, 12)):
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
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
            f"a photo of a {{}} {name}", f"a photo of a {{}}-colored {name}", "a photo of a {} object",
        ]  # fmt: skip
        texts = open_clip.build_zero_shot_classifier(model, tokenizer, COLORS, templates)
        with torch.no_grad():
            image = model.encode_image(preprocess(crop)[None], normalize=True)
        colors.append(COLORS[int((100 * image @ texts).argmax())])
    return colors


def test_batched_colors_equal_the_published_way_one_at_a_time(folder, crops):
    expected = one_at_a_time(folder, crops, NAMES)
    assert len(set(expected)) > 1
    for batch_size in (1, 2, 64):
        assert ColorClassifier(folder, batch_size=batch_size).classify(crops, NAMES) == expected


def test_nothing_to_classify(folder):
    assert ColorClassifier(folder).classify([], []) == []


def test_reduced_precision_runs(folder, crops):
    colors = ColorClassifier(folder, dtype=torch.bfloat16).classify(crops, NAMES)
    assert set(colors) <= set(COLORS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_colors_on_the_gpu(folder, crops):
    expected = ColorClassifier(folder).classify(crops, NAMES)
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


def test_hash_identifies_the_weights(folder, tmp_path):
    again, other = save_clip(tmp_path / "again"), save_clip(tmp_path / "other", seed=1)
    first = ColorClassifier(folder).weights_hash
    assert ColorClassifier(again).weights_hash == first
    assert ColorClassifier(other).weights_hash != first
    assert ColorClassifier(folder, dtype=torch.bfloat16).weights_hash == first
    layer = torch.nn.Linear(2, 2)
    before = module_hash(layer)
    with torch.no_grad():
        layer.bias[0] += 1
    assert module_hash(layer) != before


def test_a_bare_weights_file_of_another_size_is_refused(folder):
    with pytest.raises(EvaluatorError, match="cannot load colour classifier"):
        ColorClassifier(f"{folder}/open_clip_model.safetensors")


def test_missing_weights_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for weights in ("nobody/no-such-clip", str(tmp_path)):
        with pytest.raises(EvaluatorError, match="soarbench fetch geneval") as caught:
            ColorClassifier(weights)
        assert "\n" not in str(caught.value)
