"""GenEval's detector on transformers: Mask2Former, pre- and post-processed as in mmdet 2.27."""

# mmdet itself needs mmcv 1 and Python 3.8, and a compiler (djghosh13/geneval#1, #8, #12).

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate, pad
from transformers import Mask2FormerForUniversalSegmentation

from evaluators.batches import at_once
from evaluators.devices import on_device, torch_device, torch_dtype
from evaluators.downloads import resolve_published
from evaluators.geneval.canaries import street_canaries
from evaluators.geneval.colors import ColorClassifier, object_crop
from evaluators.geneval.config import DETECTOR, DETECTOR_FILES, GenEvalConfig
from evaluators.geneval.detectors import Detection, Instance, instances_from_logits
from evaluators.geneval.metadata import parse_request
from evaluators.geneval.mmdetection import load_mmdetection
from evaluators.geneval.prompts import CLASS_NAMES, COLORS
from evaluators.geneval.verdict import GenEval, confidence_threshold, indices_to_color
from evaluators.weights import (
    WeightsError,
    combined_hash,
    first_line,
    resolve_directory,
    sha256_of,
)

#: Longest and shortest edge that an image is resized to fit, in pixels.
IMAGE_SCALE = (1333, 800)
SIZE_DIVISOR = 32
#: mmdet pads with this grey level (0..255), then normalises.
PADDING_LEVEL = 128.0
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
# Classes whose names all conversions of COCO agree on: a shifted order of classes, which runs and
# judges nonsense, shows in them.
_LANDMARKS = {0: "person", 11: "stop sign", 16: "dog", 41: "cup", 74: "clock", 79: "toothbrush"}

Size = tuple[int, int]


def resized_size(size: Size, image_scale: Size = IMAGE_SCALE) -> Size:
    """(height, width) that fits ``image_scale`` with the ratio kept, rounded as mmcv does."""
    long_edge, short_edge = image_scale
    factor = min(long_edge / max(size), short_edge / min(size))
    height, width = (max(1, int(edge * factor + 0.5)) for edge in size)
    return height, width


def padded_size(size: Size) -> Size:
    """(height, width) rounded up to multiples of 32."""
    height, width = (edge + -edge % SIZE_DIVISOR for edge in size)
    return height, width


def model_input(
    image: Image.Image, *, image_scale: Size = IMAGE_SCALE, device: torch.device | str = "cpu"
) -> Tensor:
    """Resize, pad and normalise one RGB image: (3, H, W) float32, both sides multiples of 32."""
    pixels = on_device(torch.from_numpy(np.array(image.convert("RGB"))), torch.device(device))
    levels = pixels.permute(2, 0, 1).float()
    height, width = resized_size((image.height, image.width), image_scale)
    # As OpenCV's INTER_LINEAR, which mmdet uses, and not Pillow's, which smooths when it reduces.
    # At most one level from OpenCV's fixed-point result, in 12 % of the pixels of white noise.
    levels = interpolate(levels[None], (height, width), mode="bilinear", align_corners=False)[0]
    full_height, full_width = padded_size((height, width))
    margins = (0, full_width - width, 0, full_height - height)
    levels = pad(levels.round(), margins, value=PADDING_LEVEL)
    mean, std = (levels.new_tensor(v).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    return (levels - mean) / std


class Mask2FormerDetector:
    """Detects the 80 COCO classes under GenEval's names, and colours where they are asked for."""

    name = "mask2former"
    class_names: Sequence[str] = CLASS_NAMES
    color_names: Sequence[str] = COLORS

    def __init__(
        self,
        weights: str,
        *,
        color_classifier: ColorClassifier,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 8,
        image_scale: Size = IMAGE_SCALE,
    ) -> None:
        """Load the weights; ``WeightsError`` unless they are whole and for COCO's classes."""
        model, own = load_detector(weights)
        self._colors = color_classifier
        other = color_classifier.weights_hash
        self.weights_hash = f"{own[:16]}-{other[:16]}"
        self.version = f"1-{image_scale[0]}x{image_scale[1]}-{str(dtype).removeprefix('torch.')}"
        model.train(mode=False).requires_grad_(requires_grad=False).to(device=device, dtype=dtype)
        self._model = model
        self._device, self._dtype = torch.device(device), dtype
        self._batch_size, self._image_scale = batch_size, image_scale

    def detect(
        self, images: Sequence[Image.Image], metadatas: Sequence[Mapping[str, object]]
    ) -> list[list[Detection]]:
        """Objects above the task's confidence, and the colours that the verdicts read."""
        requests = [parse_request(metadata) for metadata in metadatas]
        detections: list[list[Detection]] = [[] for _ in images]
        places: list[tuple[int, int]] = []
        crops: list[Image.Image] = []
        for rows in self._batches(images):
            thresholds = [confidence_threshold(requests[row].tag) for row in rows]
            batch = self._instances([images[row] for row in rows], thresholds)
            for row, instances in zip(rows, batch, strict=True):
                detections[row] = [
                    Detection(self.class_names[instance.label], instance.box, instance.score)
                    for instance in instances
                ]
                # Masks of full size are freed with their image; of what is to be coloured, the crop
                # stays, so that crops of all images share the colour model's batches.
                for i in indices_to_color(detections[row], requests[row]):
                    places.append((row, i))
                    crops.append(object_crop(images[row], instances[i].mask, instances[i].box))
        labels = [detections[row][i].label for row, i in places]
        colors = self._colors.classify(crops, labels)
        for (row, i), color in zip(places, colors, strict=True):
            detections[row][i] = dataclasses.replace(detections[row][i], color=color)
        return detections

    def _batches(self, images: Sequence[Image.Image]) -> Iterator[list[int]]:
        """Indices of images of equal padded size, of square ones ``batch_size`` together."""
        by_size: dict[Size, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_size[padded_size(self._resized_size(image))].append(index)
        for size, rows in by_size.items():
            count = at_once(self._batch_size, math.prod(size), usual=min(self._image_scale) ** 2)
            for start in range(0, len(rows), count):
                yield rows[start : start + count]

    def _resized_size(self, image: Image.Image) -> Size:
        return resized_size((image.height, image.width), self._image_scale)

    @torch.inference_mode()
    def _instances(
        self, images: Sequence[Image.Image], thresholds: Sequence[float]
    ) -> Iterator[list[Instance]]:
        """One forward for images of equal padded size; their masks come one image after another."""
        scale, device = self._image_scale, self._device
        inputs = [model_input(image, image_scale=scale, device=device) for image in images]
        output = self._model(torch.stack(inputs).to(self._dtype))
        logits = (output.class_queries_logits, output.masks_queries_logits)
        for class_logits, mask_logits, image, limit in zip(
            *logits, images, thresholds, strict=True
        ):
            yield instances_from_logits(
                class_logits,
                mask_logits,
                padded_size=inputs[0].shape[-2:],
                resized_size=self._resized_size(image),
                original_size=(image.height, image.width),
                min_score=limit,
            )


def load_geneval(config: GenEvalConfig) -> GenEval:
    """GenEval with drawn canaries; ``WeightsError`` where weights are missing or do not fit."""
    device, dtype = torch_device(config.device), torch_dtype(config.dtype)
    colors = ColorClassifier(
        config.color_model, device=device, dtype=dtype, batch_size=config.crop_batch_size
    )
    # One image fills a CPU's cores, where a larger batch spends its time on fresh memory.
    batch_size = config.batch_size or (1 if device.type == "cpu" else 8)
    detector = Mask2FormerDetector(
        config.detector, color_classifier=colors, device=device, dtype=dtype, batch_size=batch_size
    )
    return GenEval(detector, canaries=street_canaries(), config=config)


def load_detector(weights: str) -> tuple[Mask2FormerForUniversalSegmentation, str]:
    """The model of ``GenEvalConfig.detector`` on the CPU in float32, and what identifies it.

    ``WeightsError`` where it is not to be had, not whole, or for other classes than COCO's.
    """
    path = Path(weights).expanduser()
    if weights == DETECTOR.name and not path.exists():
        path = resolve_published(DETECTOR, key="detector")
    if path.is_file():
        return load_mmdetection(path), sha256_of(path)
    directory = resolve_directory(weights, DETECTOR_FILES, key="detector")
    # Of two files with the same weights, transformers reads the first.
    config, *files = (path for name in DETECTOR_FILES if (path := directory / name).is_file())
    return _from_transformers(directory), combined_hash([config, *files[:1]])


def _from_transformers(directory: Path) -> Mask2FormerForUniversalSegmentation:
    """A folder's model, checked to be whole and for the right classes."""
    try:
        model, report = cast(
            "tuple[Mask2FormerForUniversalSegmentation, dict[str, set[str]]]",
            Mask2FormerForUniversalSegmentation.from_pretrained(
                directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
            ),
        )
    except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        raise WeightsError(
            f"cannot load detector {directory}: {first_line(error)}; it must be a Mask2Former for "
            "COCO instances in transformers' layout"
        ) from error
    # transformers fills what is missing with random values and goes on. Buffers it computes.
    missing = sorted(set(report["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if missing:
        raise WeightsError(
            f"detector {directory} lacks {len(missing)} parameters, e.g. {missing[0]!r}, which "
            "would be random; fetch the published weights again"
        )
    _check_classes(directory, {int(i): name for i, name in (model.config.id2label or {}).items()})
    return model


def _check_classes(directory: Path, id2label: Mapping[int, str]) -> None:
    """Refuse a model of other classes, or of the same in another order."""
    if len(id2label) != len(CLASS_NAMES):
        raise WeightsError(
            f"detector {directory} has {len(id2label)} classes; GenEval needs COCO's "
            f"{len(CLASS_NAMES)}"
        )
    for index, name in _LANDMARKS.items():
        given = id2label[index]
        if given not in (name, f"LABEL_{index}"):
            raise WeightsError(
                f"detector {directory} calls class {index} {given!r}, which should be {name!r}: "
                "its classes are not in COCO's order"
            )
