"""What GenEval asks of an object detector, and how masks and classes become scored instances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from evaluators.batches import at_once

# An analytical detector imports this module, and the laboratory's judges need no framework.
if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[float, float, float, float]
Size = Sequence[int]

#: Query masks enlarged at a time, and their pixels: 68 MB.
_QUERY_CHUNK, _QUERY_PIXELS = 16, 1333 * 800


@dataclass(frozen=True)
class Detection:
    """One detected object: its class, edges x1, y1, x2, y2 in pixels of the image, and confidence.

    The score, 0..1, is not finite where the detector failed; the colour None where nobody asked.
    """

    label: str
    box: Box
    score: float
    color: str | None = None


class Detector(Protocol):
    """Finds objects in images; gives no other labels and colours than it names.

    ``version`` changes whenever results may change with the same weights, which ``weights_hash``
    identifies (empty where there are none).
    """

    name: str
    version: str
    weights_hash: str
    class_names: Sequence[str]
    color_names: Sequence[str]

    def detect(
        self, images: Sequence[Image.Image], metadatas: Sequence[Mapping[str, object]]
    ) -> list[list[Detection]]:
        """The objects of each RGB image; colours at least where the metadata asks for one."""


def as_detection(item: Detection | Mapping[str, object]) -> Detection:
    """Read ``{"label", "box", "score", "color"}``; ``ValueError`` where a field cannot be used."""
    if isinstance(item, Detection):
        return item
    label, box, score, color = (item.get(key) for key in ("label", "box", "score", "color"))
    if not isinstance(label, str) or not isinstance(score, int | float):
        raise ValueError(f"detection {dict(item)} needs a label (text) and a score (number)")
    if not isinstance(box, Sequence) or len(box) != 4:
        raise ValueError(f"box of {label!r} is {box!r}; it must be [x1, y1, x2, y2]")
    if color is not None and not isinstance(color, str):
        raise ValueError(f"color of {label!r} is {color!r}; it must be a colour name or None")
    x1, y1, x2, y2 = (float(edge) for edge in box)
    return Detection(label, (x1, y1, x2, y2), float(score), color)


@dataclass(frozen=True)
class Instance:
    """One (query, class) pair of a mask classification model; the mask is (H, W) bool.

    The box is the mask's tight bounds x1, y1, x2, y2 in pixels, the upper edges exclusive.
    """

    label: int
    score: float
    box: tuple[int, int, int, int]
    mask: Tensor


def instances_from_logits(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded_size: Size,
    resized_size: Size,
    original_size: Size,
    max_instances: int = 100,
    *,
    min_score: float = 0.0,
) -> list[Instance]:
    """Instances of one image by falling score from Mask2Former's outputs, as mmdet computes them.

    Of the best ``max_instances`` (query, class) pairs by class probability. A mask is where the
    enlarged logit is above 0; a score is class probability x mean sigmoid over the mask (sum /
    (area + 1e-6)). Not-a-number logits give not-a-number scores, which are kept.

    Args:
        class_logits: (Q, C + 1), the last column "no object".
        mask_logits: (Q, h, w).
        padded_size: (height, width) of the model's input; logits are enlarged to it.
        resized_size: (height, width) of the image inside the input; the rest is cut off.
        original_size: (height, width) of the image before it was resized.
        max_instances: Pairs that are considered.
        min_score: Instances at or below it are left out; an empty mask has score 0.

    Source: mmdet 2.27, ``MaskFormerFusionHead.instance_postprocess`` and ``simple_test``.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    num_classes = probabilities.shape[1]
    # Stable: among equals the lower query, then the lower class wins on every machine.
    best, order = probabilities.flatten().sort(descending=True, stable=True)
    best, order = best[:max_instances], order[:max_instances]
    # No score exceeds its class probability: what cannot pass needs no mask of full size. Asked as
    # "not at or below", so that nan stays and makes the image unscored.
    possible = ~(best <= min_score)
    best, order = best[possible], order[possible]
    # A query may stand in several pairs; its mask is enlarged once.
    queries, rows = (order // num_classes).unique(return_inverse=True)
    sizes = (padded_size, resized_size, original_size)
    masks, quality, boxes = _query_masks(mask_logits[queries], *sizes)
    scores = best * quality[rows]
    ranking = scores.argsort(descending=True, stable=True)
    ranking = ranking[~(scores[ranking] <= min_score)]
    columns = (order % num_classes, scores, rows)
    return [
        Instance(label, score, boxes[row], masks[row])
        for label, score, row in zip(*(c[ranking].tolist() for c in columns), strict=True)
    ]


def _query_masks(
    mask_logits: Tensor, padded_size: Size, resized_size: Size, original_size: Size
) -> tuple[list[Tensor], Tensor, list[tuple[int, int, int, int]]]:
    """Masks, mean mask probabilities (Q,) and boxes of queries at the original size."""
    mask_logits = mask_logits.float()
    masks: list[Tensor] = []
    boxes: list[tuple[int, int, int, int]] = []
    quality = mask_logits.new_zeros(len(mask_logits))
    largest = max(math.prod(padded_size), math.prod(original_size))
    count = at_once(_QUERY_CHUNK, largest, usual=_QUERY_PIXELS)
    for start in range(0, len(mask_logits), count):
        chunk = slice(start, start + count)
        # Twice, by way of the model's input, as mmdet does: one enlargement gives other edges, and
        # transformers' own post-processing squeezes every mask to 384 x 384 first.
        logits = _resized(mask_logits[chunk], padded_size)
        logits = _resized(logits[:, : resized_size[0], : resized_size[1]], original_size)
        mask = logits > 0
        inside = (logits.sigmoid() * mask).flatten(1).sum(1)
        quality[chunk] = inside / (mask.flatten(1).sum(1) + 1e-6)
        masks.extend(mask)
        boxes.extend(_tight_boxes(mask))
    return masks, quality, boxes


def _resized(logits: Tensor, size: Size) -> Tensor:
    """Bilinear, pixel centres at half-integers. (Q, h, w) -> (Q, *size)."""
    from torch.nn.functional import interpolate

    height, width = size
    return interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)[0]


def _tight_boxes(masks: Tensor) -> list[tuple[int, int, int, int]]:
    """Bounds of masks, (Q, H, W); all 0 for an empty mask."""
    edges = []
    for occupied in (masks.any(1), masks.any(2)):
        first = occupied.int().argmax(1)
        end = occupied.shape[1] - occupied.flip(1).int().argmax(1)
        edges += [first, end * occupied.any(1)]
    x1, x2, y1, y2 = (edge.tolist() for edge in edges)
    return list(zip(x1, y1, x2, y2, strict=True))
