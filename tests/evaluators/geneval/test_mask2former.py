import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from evaluators.base import EvaluatorError, Sample
from evaluators.geneval.canaries import draw_street, street_canaries
from evaluators.geneval.colors import ColorClassifier
from evaluators.geneval.config import GenEvalConfig
from evaluators.geneval.mask2former import (
    PIXEL_MEAN,
    PIXEL_STD,
    Mask2FormerDetector,
    load_geneval,
    model_input,
    padded_size,
    resized_size,
)
from evaluators.geneval.prompts import CLASS_NAMES, COLORS
from evaluators.geneval.verdict import GenEval
from evaluators.weights import WeightsError
from soarbench.benchmarks.tiny_detectors import save_clip, save_mask2former

SCALE = (96, 64)
STOP_SIGN = CLASS_NAMES.index("stop sign")
RED_SIGN = {
    "tag": "colors",
    "prompt": "a photo of a red stop sign",
    "include": [{"class": "stop sign", "count": 1, "color": "red"}],
}


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    return {
        "clip": save_clip(root / "clip"),
        "guessing": save_mask2former(root / "guessing"),
        "sure": save_mask2former(root / "sure", favourite=STOP_SIGN),
    }


@pytest.fixture(scope="module")
def colors(folders):
    return ColorClassifier(folders["clip"])


@pytest.fixture(scope="module")
def sure(folders, colors):
    return Mask2FormerDetector(
        folders["sure"], color_classifier=colors, image_scale=SCALE, batch_size=3
    )


def test_sizes_follow_mmcv():
    assert resized_size((512, 512)) == (800, 800)
    assert resized_size((1024, 1024)) == (800, 800)
    assert resized_size((480, 640)) == (800, 1067)
    assert resized_size((300, 1000)) == (400, 1333)
    assert resized_size((1, 1)) == (800, 800)
    assert resized_size((1, 5000)) == (1, 1333)
    assert padded_size((800, 1067)) == (800, 1088)


@pytest.mark.parametrize("size", [(50, 37), (64, 64), (200, 120), (33, 301)])
def test_input_equals_opencv(size):
    cv2 = pytest.importorskip("cv2")
    image = picture(*size)
    height, width = resized_size((image.height, image.width), SCALE)
    levels = cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_LINEAR)
    prepared = model_input(image, image_scale=SCALE).permute(1, 2, 0).numpy()
    assert prepared.shape[0] % 32 == prepared.shape[1] % 32 == 0
    recovered = prepared * np.array(PIXEL_STD) + np.array(PIXEL_MEAN)
    inside = recovered[:height, :width]
    assert np.abs(inside - levels).max() < 1.01
    assert (np.abs(inside - levels) > 0.01).mean() < 0.2
    padding = np.concatenate([recovered[height:].ravel(), recovered[:, width:].ravel()])
    assert np.abs(padding - 128).max(initial=0) < 1e-3


def test_detections_and_colors(sure):
    found = sure.detect([draw_street(signs=True)], [RED_SIGN])[0]
    assert {detection.label for detection in found} == {"stop sign"}
    assert all(detection.score > 0.3 for detection in found)
    best = max(found, key=lambda detection: detection.score)
    assert best.color in COLORS
    assert [detection.color for detection in found].count(None) == len(found) - 1
    for detection in found:
        x1, y1, x2, y2 = detection.box
        assert 0 <= x1 < x2 <= 512
        assert 0 <= y1 < y2 <= 512


def test_colors_are_left_out_where_nobody_asks(sure):
    plain = {"tag": "single_object", "include": [{"class": "stop sign", "count": 1}]}
    found = sure.detect([draw_street(signs=True)], [plain])[0]
    assert found
    assert all(detection.color is None for detection in found)


def test_batches_of_mixed_sizes_equal_one_image_at_a_time(sure):
    images = [picture(*size, seed) for seed, size in enumerate(
        [(40, 40), (96, 30), (64, 64), (20, 50), (41, 40), (64, 48)]
    )]  # fmt: skip
    together = sure.detect(images, [RED_SIGN] * len(images))
    alone = [sure.detect([image], [RED_SIGN])[0] for image in images]
    assert any(together)
    for batch, single in zip(together, alone, strict=True):
        assert [(d.label, d.color) for d in batch] == [(d.label, d.color) for d in single]
        assert [d.score for d in batch] == pytest.approx([d.score for d in single], abs=1e-4)
        boxes = np.array([d.box for d in batch]), np.array([d.box for d in single])
        assert np.abs(boxes[0] - boxes[1]).max(initial=0) <= 1


def test_wide_images_go_in_smaller_batches(sure):
    # SCALE fits a square into its shorter edge, and a wide picture into the longer one.
    square, wide = Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))
    assert [len(rows) for rows in sure._batches([square] * 3)] == [3]
    assert [len(rows) for rows in sure._batches([wide] * 3)] == [2, 1]


def test_no_images(sure):
    assert sure.detect([], []) == []


def test_reduced_precision_finds_about_the_same(folders, colors, sure):
    image = draw_street(signs=True)
    half = Mask2FormerDetector(
        folders["sure"], color_classifier=colors, image_scale=SCALE, dtype=torch.bfloat16
    )
    scores = [
        sorted((d.score for d in detector.detect([image], [RED_SIGN])[0]), reverse=True)
        for detector in (half, sure)
    ]
    assert scores[0][:3] == pytest.approx(scores[1][:3], abs=0.05)
    assert half.weights_hash == sure.weights_hash
    assert half.version != sure.version


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees_with_the_cpu(folders, colors, sure):
    image = draw_street(signs=True)
    gpu = Mask2FormerDetector(
        folders["sure"], color_classifier=colors, image_scale=SCALE, device="cuda"
    )
    best = [max(d.detect([image], [RED_SIGN])[0], key=lambda x: x.score) for d in (gpu, sure)]
    assert best[0].score == pytest.approx(best[1].score, abs=1e-2)


def test_whole_evaluator_on_drawn_scenes(sure):
    judged = GenEval(sure, canaries=street_canaries())
    dog = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
    sign = {"tag": "single_object", "include": [{"class": "stop sign", "count": 1}]}
    samples = [
        Sample(
            sample_id=name, prompt_id=name, prompt=name, image=draw_street(signs=True), metadata=m
        )
        for name, m in (("dog", dog), ("sign", sign))
    ]
    scores = judged.score(samples)
    assert [score.value for score in scores] == [0.0, 1.0]
    assert scores[0].details["reason"] == 'expected at least 1 "dog", found 0'
    assert judged.aggregate(samples, scores)["overall"] == 0.5


@pytest.mark.parametrize("weights", ["guessing", "sure"])
def test_canaries_stop_a_random_detector(folders, colors, weights):
    detector = Mask2FormerDetector(folders[weights], color_classifier=colors, image_scale=SCALE)
    with pytest.raises(EvaluatorError, match="nothing was scored"):
        GenEval(detector, canaries=street_canaries()).check_canaries()


def test_broken_weights_make_images_unscored(folders, colors):
    detector = Mask2FormerDetector(folders["sure"], color_classifier=colors, image_scale=SCALE)
    detector._model.class_predictor.bias.data[0] = float("nan")
    canary = street_canaries()[1].good
    score = GenEval(detector, canaries=street_canaries()).score([canary])[0]
    assert "not finite" in score.reason


def test_incomplete_weights_are_refused(folders, colors, tmp_path):
    shutil.copytree(folders["guessing"], tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    tensors = load_file(path)
    del tensors["class_predictor.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 parameters.*class_predictor\.weight"):
        Mask2FormerDetector(str(tmp_path / "cut"), color_classifier=colors)


def test_weights_of_another_shape_are_refused(folders, colors, tmp_path):
    shutil.copytree(folders["guessing"], tmp_path / "odd")
    path = tmp_path / "odd" / "model.safetensors"
    tensors = load_file(path)
    tensors["class_predictor.weight"] = tensors["class_predictor.weight"][:5].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="cannot load detector") as caught:
        Mask2FormerDetector(str(tmp_path / "odd"), color_classifier=colors)
    assert "\n" not in str(caught.value)


def test_other_classes_are_refused(folders, colors, tmp_path):
    few = save_mask2former(tmp_path / "few", num_labels=3)
    with pytest.raises(WeightsError, match="has 3 classes"):
        Mask2FormerDetector(few, color_classifier=colors)
    shutil.copytree(folders["guessing"], tmp_path / "shifted")
    path = tmp_path / "shifted" / "config.json"
    config = json.loads(path.read_text())
    config["id2label"] = {str(i): CLASS_NAMES[i - 1] for i in range(80)}
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="calls class 0 'toothbrush', which should be 'person'"):
        Mask2FormerDetector(str(tmp_path / "shifted"), color_classifier=colors)


def test_missing_weights_say_how_to_get_them(monkeypatch, colors):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="nobody/no-such-detector") as caught:
        Mask2FormerDetector("nobody/no-such-detector", color_classifier=colors)
    assert "\n" not in str(caught.value)


def test_hash_covers_detector_and_color_model(folders, colors, sure):
    guessing = Mask2FormerDetector(folders["guessing"], color_classifier=colors)
    detector, color_model = sure.weights_hash.split("-")
    assert colors.weights_hash.startswith(color_model)
    assert guessing.weights_hash.endswith(color_model)
    assert not guessing.weights_hash.startswith(detector)


def test_published_setup_is_built_from_its_configuration(folders):
    config = GenEvalConfig(detector=folders["sure"], color_model=folders["clip"], device="cpu")
    judged = load_geneval(config)
    assert judged.weights_hash.startswith("mask2former-1-1333x800-float32-")
    assert [canary.good.metadata["tag"] for canary in judged.canaries()] == [
        "single_object", "colors",
    ]  # fmt: skip


@pytest.mark.parametrize(("batch_size", "wanted"), [(None, 1), (5, 5)])
def test_a_cpu_takes_one_image_at_a_time_unless_told_otherwise(folders, batch_size, wanted):
    config = GenEvalConfig(
        detector=folders["sure"], color_model=folders["clip"], device="cpu", batch_size=batch_size
    )
    detector = load_geneval(config)._detector
    assert max(map(len, detector._batches([picture(8, 8)] * 12))) == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"detector": ""}, "detector is empty"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"dtype": "int8"}, "dtype='int8'"),
    ],
)
def test_impossible_configurations(values, message):
    with pytest.raises(ValueError, match=message):
        GenEvalConfig(**values)


def test_canary_pictures_differ_only_by_the_signs():
    assert draw_street(signs=True).tobytes() == draw_street(signs=True).tobytes()
    street, empty = (np.asarray(draw_street(signs=on), int) for on in (True, False))
    changed = np.abs(street - empty).sum(2) > 0
    assert 0.1 < changed.mean() < 0.4
    assert not changed[:, 470:].any() or changed[:, 470:].mean() < 0.2
