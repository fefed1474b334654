"""What GenEval asks of an object detector, and how masks and classes become scored instances.

Importing this module needs no deep-learning framework, so that an analytical detector needs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[float, float, float, float]
Size = Sequence[int]

#: Query masks enlarged at a time: 16 at 1333 x 800 are 68 MB.
_QUERY_CHUNK = 16


@dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
        label: Class name.
        box: Edges x1, y1, x2, y2 in pixels of the image.
        score: Confidence, 0..1; not finite when the detector failed on this image.
        color: Colour name; None where nobody asked for it.
    """

    label: str
    box: Box
    score: float
    color: str | None = None


class Detector(Protocol):
    """Finds objects in images; knows its classes and colours by name."""

    @property
    def name(self) -> str:
        """Short name, for the fingerprint."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever results may change with the same weights."""
        ...

    @property
    def weights_hash(self) -> str:
        """What identifies the weights; empty where there are none."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """Every label that it can give."""
        ...

    @property
    def color_names(self) -> Sequence[str]:
        """Every colour that it can give."""
        ...

    def detect(
        self, images: Sequence[Image.Image], metadatas: Sequence[Mapping[str, object]]
    ) -> list[list[Detection]]:
        """Find the objects of each image.

        Args:
            images: RGB.
            metadatas: What each image was asked to show, in GenEval's form: colours may be left
                unclassified where a verdict does not need them.

        Returns:
            A list an image, in order.
        """
        ...


def as_detection(item: Detection | Mapping[str, object]) -> Detection:
    """Read a detection given as ``{"label", "box", "score", "color"}``.

    Raises:
        ValueError: A field is missing or of the wrong kind.
    """
    if isinstance(item, Detection):
        return item
    label, box, score = item.get("label"), item.get("box"), item.get("score")
    color = item.get("color")
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
    """One (query, class) pair of a mask classification model.

    Attributes:
        label: Class index.
        score: Class probability x mean mask probability, 0..1.
        box: Tight bounds x1, y1, x2, y2 of the mask in pixels, the upper edges exclusive.
        mask: (H, W) bool, at the original size.
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
    """Instances of one image from the outputs of Mask2Former, as mmdet computes them.

    The best ``max_instances`` (query, class) pairs by class probability are taken; among equals the
    lower query, then the lower class wins. A mask is where the enlarged logit is above 0; a score
    is class probability x mean sigmoid of the logits over the mask (sum / (area + 1e-6)). Since a
    score never exceeds its class probability, pairs below ``min_score`` are dropped before their
    masks are enlarged, which changes nothing but the time.

    Args:
        class_logits: (Q, C + 1), the last column "no object".
        mask_logits: (Q, h, w).
        padded_size: (height, width) of the model's input; logits are enlarged to it.
        resized_size: (height, width) of the image inside the input; the rest is cut off.
        original_size: (height, width) of the image before it was resized.
        max_instances: Pairs that are considered.
        min_score: Instances at or below it are left out; an empty mask has score 0.

    Returns:
        Instances by falling score. Not-a-number logits give not-a-number scores, which are kept.

    Source: mmdet 2.27, ``MaskFormerFusionHead.instance_postprocess`` and ``simple_test``.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    num_classes = probabilities.shape[1]
    best, order = probabilities.flatten().sort(descending=True, stable=True)
    best, order = best[:max_instances], order[:max_instances]
    possible = ~(best <= min_score)
    best, order = best[possible], order[possible]
    # A query may stand in several pairs; its mask is enlarged once.
    queries = (order // num_classes).tolist()
    place = {query: i for i, query in enumerate(sorted(set(queries)))}
    sizes = (padded_size, resized_size, original_size)
    masks, quality, boxes = _query_masks(mask_logits[list(place)], *sizes)
    scores = best * quality[[place[query] for query in queries]]
    ranking = scores.argsort(descending=True, stable=True)
    ranking = ranking[~(scores[ranking] <= min_score)]
    labels, values = (order % num_classes)[ranking].tolist(), scores[ranking].tolist()
    rows = [place[queries[i]] for i in ranking.tolist()]
    return [
        Instance(label, score, boxes[i], masks[i])
        for label, score, i in zip(labels, values, rows, strict=True)
    ]


def _query_masks(
    mask_logits: Tensor, padded_size: Size, resized_size: Size, original_size: Size
) -> tuple[list[Tensor], Tensor, list[tuple[int, int, int, int]]]:
    """Masks, mean mask probabilities (Q,) and boxes of queries at the original size."""
    mask_logits = mask_logits.float()
    masks: list[Tensor] = []
    boxes: list[tuple[int, int, int, int]] = []
    quality = mask_logits.new_zeros(len(mask_logits))
    for start in range(0, len(mask_logits), _QUERY_CHUNK):
        chunk = slice(start, start + _QUERY_CHUNK)
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
    # Here, not above: analytical detectors import this module without PyTorch.
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
