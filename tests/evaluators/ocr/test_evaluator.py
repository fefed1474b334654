"""The OCR reward against the published one, and the real reader on drawn words."""

import functools
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from evaluators.base import EvaluatorError, Sample, Score
from evaluators.ocr import engine as ocr_engine
from evaluators.ocr.engine import Line
from evaluators.ocr.evaluator import (
    OcrConfig,
    OcrEvaluator,
    drawn_word,
    edit_distance,
    enlarged,
    target_text,
    text_reward,
)

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "vectors.json").read_text())
WORDS = (
    "OPEN", "Coffee", "MARKET", "Sale", "2024", "Welcome", "library", "EXIT", "Bakery", "Sunset",
    "TAXI", "Hotel", "garden", "PIZZA", "Museum", "Happy", "STOP", "Flowers", "Music", "RIVER",
    "Summer", "Books", "winter", "Gallery", "Street", "BREAD", "Ocean", "Fresh", "planet",
    "Forest",
)  # fmt: skip
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSansMono", "STIXGeneral", "STIXGeneralBol", "cmr10", "cmss10", "Pillow",
)  # fmt: skip


@pytest.mark.parametrize("case", VECTORS["ocr"], ids=lambda case: case["target"])
def test_published_rewards_are_reproduced(case):
    assert text_reward(case["recognised"], case["target"]) == pytest.approx(
        case["reward"], abs=1e-6
    )


def test_reward_by_hand():
    # "kitten" -> "sitting" is the textbook distance of 3; the target has 7 letters.
    assert text_reward("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert text_reward("O P E N", "open") == 1.0
    assert text_reward("now open daily", "OPEN") == 1.0
    assert text_reward("something else entirely", "cat") == 0.0
    assert text_reward("欢迎光", "欢迎光临") == 0.75


def test_reward_of_a_blank_target_is_an_error():
    with pytest.raises(ValueError, match="blank"):
        text_reward("anything", "  ")


def test_edit_distance_against_its_definition():
    @functools.cache
    def reference(first, second):
        if not first or not second:
            return len(first) + len(second)
        same = reference(first[1:], second[1:]) + (first[0] != second[0])
        return min(same, 1 + reference(first[1:], second), 1 + reference(first, second[1:]))

    rng = np.random.default_rng(0)
    for _ in range(200):
        first, second = ("".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(2))
        assert edit_distance(first, second) == reference(first, second)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign that says "OPEN"', "OPEN"),
        ("a sign that says “OPEN late”", "OPEN late"),
        ("ein Schild mit „Geöffnet“ darauf", "Geöffnet"),
        ("une affiche « Ouvert »", "Ouvert"),
        ("写着「欢迎光临」的招牌", "欢迎光临"),
        ("写着『大吉』的灯笼", "大吉"),
        ("a sign \uff02OPEN\uff02", "OPEN"),
        ('first "one" then "two"', "one"),
        ('mixed "Open” quotes', "Open"),
        ("it's a \"dog's life\" poster", "dog's life"),
        ('two lines "Grand\nOpening  Today"', "Grand Opening Today"),
        ('a “curly” then a "straight"', "curly"),
    ],
)
def test_target_text_of_all_kinds_of_quotes(prompt, text):
    assert target_text(prompt) == text


@pytest.mark.parametrize("prompt", ["a red circle", 'a 5" nail', "it's 'single'", 'empty ""'])
def test_prompt_without_quoted_text_is_an_error(prompt):
    with pytest.raises(ValueError, match="double quotes"):
        target_text(prompt)


def test_small_images_are_enlarged_and_large_ones_are_not():
    assert enlarged(Image.new("RGB", (64, 64)), 256).size == (256, 256)
    assert enlarged(Image.new("L", (64, 128)), 256).size == (256, 512)
    assert enlarged(Image.new("RGB", (512, 300)), 256).size == (512, 300)
    assert enlarged(Image.new("RGB", (1, 1000)), 256).size == (4, 4096)


def sample(prompt, image=None, name="0"):
    picture = image or Image.new("RGB", (256, 256))
    return Sample(sample_id=name, prompt_id=name, prompt=prompt, image=picture)


def reader_of(*pages):
    """A reader that gives the same lines whatever it is shown."""
    left = iter(pages)
    return lambda images: iter([next(left) for _ in images])


def test_lines_below_the_confidence_threshold_do_not_count():
    pages = [[Line("OPEN", 0.9), Line("LATE", 0.3)]]
    score = OcrEvaluator(OcrConfig(min_confidence=0.5), reader_of(*pages)).score(
        [sample('"OPEN LATE"')]
    )[0]
    assert score.details["recognised"] == "OPEN"
    assert score.details["ignored_lines"] == 1
    assert score.value == pytest.approx(0.5)
    score = OcrEvaluator(OcrConfig(min_confidence=0.0), reader_of(*pages)).score(
        [sample('"OPEN LATE"')]
    )[0]
    assert score.value == 1.0
    assert score.details["exact"]


@pytest.mark.parametrize(("confidence", "counts"), [(0.5, True), (0.49999, False)])
def test_a_line_of_just_the_confidence_counts(confidence, counts):
    evaluator = OcrEvaluator(OcrConfig(min_confidence=0.5), reader_of([Line("CAT", confidence)]))
    assert evaluator.score([sample('"CAT"')])[0].details["exact"] is counts


def test_images_weigh_alike_whatever_their_prompts_and_failures_not_at_all():
    # Three images of one prompt (rewards 1, 1 and 0) and one of another (0.5); one is exact.
    pages = [[Line(text, 1.0)] for text in ("cat", "a cat", "xyz", "lamp")]
    samples = [sample(text, name=name) for text, name in zip(
        ['"CAT"', '"CAT"', '"CAT"', '"LATE"'], "aaab", strict=True
    )]  # fmt: skip
    evaluator = OcrEvaluator(reader=reader_of(*pages))
    scores = evaluator.score(samples)
    assert [score.value for score in scores] == [1.0, 1.0, 0.0, 0.5]
    assert evaluator.aggregate(samples, scores) == {"mean": 0.625, "exact": 0.25, "unscored": 0.0}
    failed = Score.unscored("a", "the image could not be read")
    summary = evaluator.aggregate([*samples, samples[0]], [*scores, failed])
    assert summary == {"mean": 0.625, "exact": 0.25, "unscored": 1.0}


def test_scores_come_in_order_over_batches():
    words = [f"word{i}" for i in range(5)]
    pages = [[Line(word, 1.0)] for word in words]
    samples = [sample(f'a "{word}"', name=str(i)) for i, word in enumerate(words)]
    evaluator = OcrEvaluator(OcrConfig(batch_size=2), reader_of(*pages))
    scores = evaluator.score(samples)
    assert [score.sample_id for score in scores] == list("01234")
    summary = evaluator.aggregate(samples, scores)
    assert summary == {"mean": 1.0, "exact": 1.0, "unscored": 0.0}
    assert next(iter(summary)) == "mean"


def test_an_image_without_text_scores_zero_and_is_not_exact():
    score = OcrEvaluator(reader=reader_of([])).score([sample('"CAT"')])[0]
    assert (score.value, score.details["exact"]) == (0.0, False)


def test_a_prompt_without_quotes_stops_before_anything_is_read():
    def reader(_):
        raise AssertionError("read")

    samples = [sample('"CAT"'), sample("a cat", name="00007/0001")]
    with pytest.raises(ValueError, match="00007/0001"):
        OcrEvaluator(reader=reader).score(samples)


def test_an_engine_error_stops_the_evaluator_with_its_cause():
    def reader(_):
        raise TypeError("predict() got an unexpected keyword 'cls'")

    with pytest.raises(EvaluatorError, match="unexpected keyword") as caught:
        OcrEvaluator(reader=reader).score([sample('"CAT"')])
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(EvaluatorError, match="0 of 1"):
        OcrEvaluator(reader=lambda _: iter([])).score([sample('"CAT"')])


@pytest.mark.parametrize(
    "values",
    [
        {"engine": "tesseract"},
        {"min_confidence": 1.5},
        {"min_side": 0},
        {"batch_size": 0},
        {"num_threads": 0},
    ],
)
def test_impossible_configs_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        OcrConfig(**values)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
    """The real engine, started in an empty cache and without a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOARBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(socket.socket, "connect", _refuse)
        found = OcrEvaluator(OcrConfig(num_threads=1))
        found.check_canaries()
    return found


def _refuse(*_):
    raise AssertionError("a connection was tried")


def test_weights_are_hashed_and_prepared_once(evaluator):
    assert len(evaluator.weights_hash) == 64
    assert len(evaluator._files) == 4
    folders = {path.parent for path in evaluator._files}
    assert all(path.name.startswith("PP-OCRv6_small_") for path in folders)
    # Nothing half-made is left beside them.
    assert {path for folder in folders for path in folder.parent.iterdir()} == folders


def test_several_lines_and_accents_are_read(evaluator):
    image = Image.new("RGB", (300, 300), "white")
    draw = ImageDraw.Draw(image)
    draw.text((20, 40), "Grand", fill="black", font=_font("DejaVuSerif", 60))
    draw.text((20, 160), "Café Grün", fill="darkred", font=_font("DejaVuSans", 45))
    score = evaluator.score([sample('a poster "Grand Café Grün"', image)])[0]
    assert score.value == 1.0
    assert score.details["recognised"] == "Grand Café Grün"


def test_the_laboratory_size_is_read(evaluator):
    image = drawn_word("CAT", ink="black", paper="white").resize((64, 64), Image.Resampling.BOX)
    assert evaluator.score([sample('"CAT"', image)])[0].value == 1.0


def word_pictures(count, seed):
    """Words in many fonts, sizes, inks and backgrounds: (word, image)."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        word = str(rng.choice(WORDS))
        size = int(rng.integers(256, 385))
        dark = rng.integers(0, 90, 3)
        light = rng.integers(165, 256, 3)
        ink, paper = (dark, light) if rng.random() < 0.5 else (light, dark)
        image = _background(paper, size, rng)
        font = _font(str(rng.choice(FONTS)), float(rng.uniform(0.09, 0.17)) * size)
        place = (size / 2, size * rng.uniform(0.3, 0.7))
        ImageDraw.Draw(image).text(place, word, fill=tuple(ink.tolist()), font=font, anchor="mm")
        yield word, image


def _background(color, size, rng):
    """Plain, a gradient, or grain."""
    pixels = np.tile(color.astype(float), (size, size, 1))
    kind = rng.integers(3)
    if kind == 1:
        pixels += np.linspace(-40, 40, size)[:, None, None]
    if kind == 2:
        pixels += rng.normal(0, 12, (size, size, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _font(name, size):
    if name == "Pillow":
        return ImageFont.load_default(size)
    folder = Path(font_manager.__file__).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"{name}.ttf", size)


def share_read(evaluator, count, seed):
    pictures = list(word_pictures(count, seed))
    samples = [
        sample(f'a sign that says "{word}"', image, str(i))
        for i, (word, image) in enumerate(pictures)
    ]
    return evaluator.aggregate(samples, evaluator.score(samples))["exact"]


def test_drawn_words_are_readable(evaluator):
    assert share_read(evaluator, 40, seed=1) >= 0.95


@pytest.mark.slow
def test_a_hundred_and_twenty_drawn_words_are_readable(evaluator):
    assert share_read(evaluator, 120, seed=0) >= 0.95


def test_a_model_that_is_nowhere_is_one_line(tmp_path):
    config = OcrConfig(detection_model="PP-OCRv5_server_det")
    with pytest.raises(EvaluatorError, match=r"not in the rapidocr wheel.*directory"):
        OcrEvaluator(config).score([sample('"CAT"')])
    config = OcrConfig(detection_dir=str(tmp_path))
    with pytest.raises(EvaluatorError, match=r"no inference\.onnx and no inference\.yml"):
        OcrEvaluator(config).score([sample('"CAT"')])


def test_a_broken_model_stops_the_evaluator(evaluator, tmp_path):
    source = evaluator._files[0].parent
    (tmp_path / "inference.onnx").write_bytes(b"not a model")
    (tmp_path / "inference.yml").write_bytes((source / "inference.yml").read_bytes())
    with pytest.raises(EvaluatorError, match="does not start") as caught:
        OcrEvaluator(OcrConfig(detection_dir=str(tmp_path))).score([sample('"CAT"')])
    assert caught.value.__cause__ is not None


def test_paddle_without_paddlepaddle_says_how_to_get_it(monkeypatch):
    find_spec = ocr_engine.importlib.util.find_spec
    monkeypatch.setattr(
        ocr_engine.importlib.util,
        "find_spec",
        lambda name: None if name == "paddle" else find_spec(name),
    )
    with pytest.raises(EvaluatorError, match="pip install paddlepaddle"):
        OcrEvaluator(OcrConfig(engine="paddle")).score([sample('"CAT"')])


def test_the_published_engine_is_paddleocrs_english_on_swapped_channels(
    evaluator, monkeypatch, tmp_path
):
    # Stand-ins of the same kind: the published files come from the network.
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("evaluators.downloads._check_published", lambda *_: None)
    for file, folder in zip(
        OcrConfig.optional, sorted({path.parent for path in evaluator._files}), strict=True
    ):
        file.path.parent.mkdir(exist_ok=True)
        file.path.symlink_to(folder / "inference.onnx")
    asked = []

    class Pipeline:
        def __init__(self, **options):
            asked.append(options)

        def predict_iter(self, arrays):
            asked.extend(arrays)
            return iter([{"rec_texts": ["CAT"], "rec_scores": [0.9]}])

    monkeypatch.setattr(ocr_engine, "_import_paddleocr", lambda **_options: Engines)
    monkeypatch.setattr(Engines, "PaddleOCR", Pipeline)
    red = Image.new("RGB", (256, 256), "red")
    assert OcrEvaluator(OcrConfig(engine="published")).score([sample('"CAT"', red)])[0].value == 1
    options, pixels = asked
    assert options["engine"] == "onnxruntime"
    assert options["text_detection_model_name"] == "PP-OCRv3_mobile_det"
    assert options["text_recognition_model_name"] == "en_PP-OCRv4_mobile_rec"
    assert (options["text_det_limit_side_len"], options["text_det_limit_type"]) == (960, "max")
    assert pixels[0, 0].tolist() == [255, 0, 0]
    text = Path(options["text_recognition_model_dir"], "inference.yml").read_text()
    assert "en_PP-OCRv4_mobile_rec" in text


class Engines:
    PaddleOCR: type | None = None


def test_the_published_engine_says_where_its_models_are_to_be_had(monkeypatch, tmp_path):
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EvaluatorError, match=r"not in .*en_PP-OCRv3_det_mobile\.onnx") as caught:
        OcrEvaluator(OcrConfig(engine="published")).score([sample('"CAT"')])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="leave out detection_dir"):
        OcrConfig(engine="published", detection_dir="x")
    assert OcrConfig(engine="published").settings()["detection_model"] == "PP-OCRv3_mobile_det"


def test_an_unwritable_cache_is_one_line(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("SOARBENCH_CACHE", str(blocked))
    ocr_engine._prepared.cache_clear()
    with pytest.raises(EvaluatorError, match="SOARBENCH_CACHE"):
        OcrEvaluator().score([sample('"CAT"')])
    ocr_engine._prepared.cache_clear()
