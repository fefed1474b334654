"""The only file that knows PaddleOCR: its models prepared on disk, its 3.x API, its noise."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import yaml
from numpy.typing import NDArray

from evaluators.downloads import resolve_published
from evaluators.weights import EvaluatorError, PublishedFile, cache_dir, sha256_of

#: PaddleOCR's model name -> file in the ``rapidocr`` wheel.
WHEEL_MODELS = {
    "PP-OCRv6_small_det": "PP-OCRv6_det_small.onnx",
    "PP-OCRv6_small_rec": "PP-OCRv6_rec_small.onnx",
}
_MODELS = "https://www.modelscope.cn/models/RapidAI/RapidOCR/resolve/v3.10.0/onnx/PP-OCRv4"
#: What PaddleOCR 2.9.1 reads English with, by the names of PaddleOCR 3: the same models as ONNX,
#: by rapidocr's own list of files.
PUBLISHED_MODELS = {
    "PP-OCRv3_mobile_det": PublishedFile(
        name="en_PP-OCRv3_det_mobile.onnx",
        url=f"{_MODELS}/det/en_PP-OCRv3_det_mobile.onnx",
        sha256="ea07c15d38ac40cd69da3c493444ec75b44ff23840553ff8ba102c1219ed39c2",
        disk_gb=0.003,
    ),
    "en_PP-OCRv4_mobile_rec": PublishedFile(
        name="en_PP-OCRv4_rec_mobile.onnx",
        url=f"{_MODELS}/rec/en_PP-OCRv4_rec_mobile.onnx",
        sha256="e8770c967605983d1570cdf5352041dfb68fa0c21664f49f47b155abd3e0e318",
        disk_gb=0.008,
    ),
}
# PaddleOCR 2 reduces images to 960 pixels and enlarges none; 3 takes them as they are.
_PUBLISHED_SIZE = {"text_det_limit_side_len": 960, "text_det_limit_type": "max"}
#: Of a model as PaddleOCR reads it.
FILES = ("inference.onnx", "inference.yml")
_DECODE = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
# PP-OCR's published pre- and post-processing of the detection model, which the wheel leaves out.
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_DETECTION: Mapping[str, object] = {
    "PreProcess": {
        "transform_ops": [
            _DECODE,
            {"DetResizeForTest": {"resize_long": 960}},
            {"NormalizeImage": {**_IMAGENET, "scale": 1 / 255, "order": "hwc"}},
            {"ToCHWImage": None},
        ]
    },
    "PostProcess": {
        "name": "DBPostProcess",
        "thresh": 0.3,
        "box_thresh": 0.6,
        "max_candidates": 1000,
        "unclip_ratio": 1.5,
    },
}
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Line:
    """One line of text as read, and how sure the reader is, 0..1."""

    text: str
    confidence: float


#: RGB images (H, W, 3) to their lines, top to bottom and left to right.
TextReader = Callable[[Sequence[Pixels]], Iterator[list[Line]]]


def load(
    *,
    engine: str,
    detection: tuple[str, str | None],
    recognition: tuple[str, str | None],
    num_threads: int | None,
    device: str,
) -> tuple[TextReader, tuple[Path, ...]]:
    """PaddleOCR on two models (name, directory), as ``OcrConfig`` has it, and their files.

    Nothing is asked of a network: what is missing, or does not start, is an ``EvaluatorError``.
    """
    threads = num_threads or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    options: dict[str, object] = {"engine": engine, "device": device, "cpu_threads": threads}
    is_published = engine == "published"
    if is_published:
        detection, recognition = map(_published_dir, PUBLISHED_MODELS)
        options |= _PUBLISHED_SIZE
    elif engine == "onnxruntime":
        detection = (detection[0], str(_onnx_dir(*detection)))
        recognition = (recognition[0], str(_onnx_dir(*recognition)))
    if engine != "paddle":
        options |= {"engine": "onnxruntime", "engine_config": {"intra_op_num_threads": threads}}
    elif importlib.util.find_spec("paddle") is None:
        raise EvaluatorError(
            "ocr: engine='paddle' needs paddlepaddle: run `pip install paddlepaddle`, "
            "or use engine='onnxruntime'"
        )
    paddleocr = _import_paddleocr(own_cache=engine != "paddle")
    try:
        pipeline = paddleocr.PaddleOCR(
            text_detection_model_name=detection[0],
            text_detection_model_dir=detection[1],
            text_recognition_model_name=recognition[0],
            text_recognition_model_dir=recognition[1],
            # Each is a further model to fetch, and for photographs of pages.
            use_doc_orientation_classify=False,
            use_doc_unwarping=False,
            use_textline_orientation=False,
            **options,
        )
    # Whatever the engine raises on a bad model or a changed API must not pass for an unread image.
    except Exception as err:
        raise EvaluatorError(
            f"ocr: PaddleOCR does not start with {detection[0]} and {recognition[0]} "
            f"({type(err).__name__}: {err})"
        ) from err
    folders = [Path(path) for _, path in (detection, recognition) if path]
    files = [path for folder in folders for path in folder.iterdir() if path.is_file()]

    # PaddleOCR takes arrays as OpenCV has them: blue first. The published codes give it RGB.
    channels = slice(None, None, 1 if is_published else -1)

    def read(images: Sequence[Pixels]) -> Iterator[list[Line]]:
        arrays = [np.ascontiguousarray(image[..., channels]) for image in images]
        for page in pipeline.predict_iter(arrays):
            pairs = zip(page["rec_texts"], page["rec_scores"], strict=True)
            yield [Line(text, score) for text, score in pairs]

    return read, tuple(sorted(files))


def _import_paddleocr(*, own_cache: bool) -> ModuleType:
    # Set before the import, which otherwise asks the hosts of models whether they are there.
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    # Paddle's own models are in its own cache, where a user has them already.
    if own_cache:
        os.environ.setdefault("PADDLE_PDX_CACHE_HOME", str(cache_dir() / "paddlex"))
    try:
        paddleocr = importlib.import_module("paddleocr")
    except ImportError as err:
        raise EvaluatorError(
            f"ocr needs PaddleOCR 3 ({err}): run `pip install 'paddleocr>=3,<4' rapidocr "
            "onnxruntime`"
        ) from err
    logging.getLogger("paddlex").setLevel(logging.WARNING)
    return paddleocr


def _onnx_dir(name: str, path: str | None) -> Path:
    """The directory PaddleOCR wants: the user's, or one made of the wheel's model."""
    if path is not None:
        folder = Path(path).expanduser()
        missing = [file for file in FILES if not (folder / file).is_file()]
        if missing:
            raise EvaluatorError(f"ocr: model directory {path} has no {' and no '.join(missing)}")
        return folder
    if name not in WHEEL_MODELS:
        raise EvaluatorError(
            f"ocr: model {name!r} is not in the rapidocr wheel ({', '.join(WHEEL_MODELS)}); "
            "give its directory (inference.onnx, inference.yml)"
        )
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise EvaluatorError("ocr: its models come with rapidocr: run `pip install rapidocr`")
    source = Path(spec.origin).parent / "models" / WHEEL_MODELS[name]
    if not source.is_file():
        raise EvaluatorError(
            f"ocr: the installed rapidocr has no {source.name}: "
            "run `pip install 'rapidocr>=3.10,<4'`"
        )
    return _prepared(name, source)


def _published_dir(name: str) -> tuple[str, str]:
    """A published model, fetched if it is not here: its name and its directory."""
    source = resolve_published(PUBLISHED_MODELS[name], key="judge.ocr.engine=published")
    return name, str(_prepared(name, source))


@functools.cache
def _prepared(name: str, source: Path) -> Path:
    """A directory as PaddleOCR wants it, made once of an ONNX file."""
    # By content: another version of the wheel gets a directory of its own.
    folder = cache_dir() / "ocr" / f"{name}-{sha256_of(source)[:12]}"
    if folder.is_dir():
        return folder
    description = {"Global": {"model_name": name}, **_description(name, source)}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
        shutil.copyfile(source, part / FILES[0])
        text = yaml.safe_dump(description, allow_unicode=True, sort_keys=False)
        (part / FILES[1]).write_text(text, encoding="utf-8")
        # A temporary directory is its owner's alone; a cache may be shared.
        part.chmod(0o755)
        # Renamed, so that no half-made one is seen; another process may have been first.
        try:
            part.rename(folder)
        except OSError:
            shutil.rmtree(part)
            if not folder.is_dir():
                raise
    except OSError as err:
        raise EvaluatorError(
            f"ocr: cannot prepare {folder} ({err}); set SOARBENCH_CACHE to a writable folder"
        ) from err
    return folder


def _description(name: str, source: Path) -> Mapping[str, object]:
    """PaddleOCR's ``inference.yml`` of a model without its name."""
    if name.endswith("_det"):
        return _DETECTION
    import onnxruntime

    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    # One character a line; the decoder adds its blank and the space itself.
    characters = session.get_modelmeta().custom_metadata_map["character"].split("\n")
    return {
        "PreProcess": {"transform_ops": [_DECODE, {"RecResizeImg": {"image_shape": [3, 48, 320]}}]},
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": characters},
    }
