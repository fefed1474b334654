"""Constants of GenEval's detector against the libraries that ship them, not against themselves."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from transformers import Mask2FormerImageProcessor

from evaluators.geneval.colors import ColorClassifier
from evaluators.geneval.mask2former import (
    Mask2FormerDetector,
    model_input,
    padded_size,
    resized_size,
)
from evaluators.geneval.prompts import CLASS_NAMES
from evaluators.weights import WeightsError
from soarbench.benchmarks.tiny_detectors import save_clip, save_mask2former

#: COCO's 80 classes in their order, from torchvision (the checkpoints' ``id2label``).
COCO = [
    name
    for name in MaskRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    if name not in ("__background__", "N/A")
]
#: GenEval's own words for three of them.
RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}


@pytest.fixture(scope="module")
def processor():
    return Mask2FormerImageProcessor()


def noise_image(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pixels_are_normalised_as_by_transformers(processor):
    # 800 x 800 is resized by neither, so that only mean and deviation are compared.
    image = noise_image(800, 800)
    expected = processor(image, return_tensors="pt")["pixel_values"][0].numpy()
    prepared = model_input(image).numpy()
    assert prepared.shape == expected.shape == (3, 800, 800)
    # The last digit of a mean or deviation moves a value by 1e-5 / 0.057 to 2e-4.
    np.testing.assert_allclose(prepared, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "size",  # (width, height); both sides of a multiple of 32 and of the longest edge of 1333
    [(512, 512), (1024, 1024), (640, 480), (1000, 300), (300, 1000), (1333, 800), (1336, 800)],
)
def test_inputs_have_the_size_that_transformers_gives(processor, size):
    image = Image.new("RGB", size)
    expected = processor(image, return_tensors="pt")["pixel_values"].shape[-2:]
    resized = resized_size((image.height, image.width))
    assert padded_size(resized) == tuple(expected)
    assert min(resized) == processor.size["shortest_edge"] or (
        max(resized) == processor.size["longest_edge"]
    )


def test_classes_are_cocos_in_their_order():
    assert len(COCO) == 80
    assert [RENAMED.get(name, name) for name in COCO] == list(CLASS_NAMES)
    places = [CLASS_NAMES.index(name) for name in ("person", "bus", "clock", "toothbrush")]
    assert places == [0, 5, 74, 79]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    return save_mask2former(root / "detector"), ColorClassifier(save_clip(root / "clip"))


@pytest.fixture
def load(folders, tmp_path):
    """Loads a detector whose classes have the names that are given."""

    def loaded(names):
        detector, colors = folders
        shutil.copytree(detector, tmp_path / "named")
        path = tmp_path / "named" / "config.json"
        config = json.loads(path.read_text())
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        path.write_text(json.dumps(config))
        return Mask2FormerDetector(str(tmp_path / "named"), color_classifier=colors)

    return loaded


def test_a_detector_with_cocos_names_is_accepted(load):
    assert load(COCO).class_names == CLASS_NAMES


@pytest.mark.parametrize("index", [0, 11, 16, 41, 74, 79])
def test_a_class_out_of_its_place_is_refused(load, index):
    # Against a class that all conversions may write as they like: only this landmark shows it.
    names, other = list(COCO), COCO.index("tv")
    names[index], names[other] = names[other], names[index]
    with pytest.raises(WeightsError, match=f"calls class {index} 'tv'.*{COCO[index]!r}"):
        load(names)


@pytest.mark.parametrize("shift", [-1, 1])
def test_classes_that_count_from_another_number_are_refused(load, shift):
    with pytest.raises(WeightsError, match="not in COCO's order"):
        load(np.roll(COCO, shift).tolist())
