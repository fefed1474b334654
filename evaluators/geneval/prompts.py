"""GenEval's 553 prompts (arXiv:2310.11513), drawn again by the published procedure."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator

import numpy as np

from evaluators.base import EvaluatorError

# Class names, seed and the order of the random draws are the benchmark's definition. The sum of the
# official file pins the result, so that nothing has to be downloaded.
METADATA_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
SEED = 43
DRAWS_PER_TASK = 100

COLORS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
#: The 80 classes in COCO's order; "mouse", "remote" and "keyboard" carry GenEval's longer names.
CLASS_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote",
    "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

_COUNT_WORDS = {2: "two", 3: "three", 4: "four"}
# Colours are never asked of a person: the draw runs over the 79 classes after it, cyclically.
_NUM_COLORABLE = len(CLASS_NAMES) - 1

Metadata = dict[str, object]


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase."""
    # By the letter and not by the sound, as the benchmark does.
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(name: str) -> str:
    """The plural as the benchmark writes it."""
    # So "benchs", "knifes" and "sheeps": with the right words it would be another prompt.
    return f"{name}es" if name.endswith("s") else f"{name}s"


def _entry(tag: str, include: list[Metadata], phrase: str) -> Metadata:
    return {"tag": tag, "include": include, "prompt": f"a photo of {phrase}"}


def _wanted(name: str, **extra: object) -> Metadata:
    return {"class": name, "count": 1, **extra}


def _colorable(index: int) -> str:
    return CLASS_NAMES[(index + 1 + CLASS_NAMES.index("person")) % len(CLASS_NAMES)]


def _single_objects(rng: np.random.Generator) -> Iterator[Metadata]:
    for index in rng.choice(len(CLASS_NAMES), size=len(CLASS_NAMES), replace=False):
        name = CLASS_NAMES[index]
        yield _entry("single_object", [_wanted(name)], with_article(name))


def _two_objects(rng: np.random.Generator) -> Metadata:
    first, second = (CLASS_NAMES[i] for i in rng.choice(len(CLASS_NAMES), size=2, replace=False))
    phrase = f"{with_article(first)} and {with_article(second)}"
    return _entry("two_object", [_wanted(first), _wanted(second)], phrase)


def _counting(rng: np.random.Generator) -> Metadata:
    name = CLASS_NAMES[rng.choice(len(CLASS_NAMES))]
    count = int(rng.integers(2, 4, endpoint=True))
    return {
        "tag": "counting",
        "include": [{"class": name, "count": count}],
        "exclude": [{"class": name, "count": count + 1}],
        "prompt": f"a photo of {_COUNT_WORDS[count]} {plural(name)}",
    }


def _color(rng: np.random.Generator) -> Metadata:
    name = _colorable(rng.choice(_NUM_COLORABLE))
    color = COLORS[rng.choice(len(COLORS))]
    return _entry("colors", [_wanted(name, color=color)], f"{with_article(color)} {name}")


def _position(rng: np.random.Generator) -> Metadata:
    placed, target = (CLASS_NAMES[i] for i in rng.choice(len(CLASS_NAMES), size=2, replace=False))
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    # The target first: a clause refers to an earlier one.
    include = [_wanted(target), _wanted(placed, position=[relation, 0])]
    phrase = f"{with_article(placed)} {relation} {with_article(target)}"
    return _entry("position", include, phrase)


def _color_attribution(rng: np.random.Generator) -> Metadata:
    names = [_colorable(i) for i in rng.choice(_NUM_COLORABLE, size=2, replace=False)]
    colors = [COLORS[i] for i in rng.choice(len(COLORS), size=2, replace=False)]
    pairs = list(zip(names, colors, strict=True))
    include = [_wanted(name, color=color) for name, color in pairs]
    phrase = " and ".join(f"{with_article(color)} {name}" for name, color in pairs)
    return _entry("color_attr", include, phrase)


def _draw_suite() -> Iterator[Metadata]:
    """All draws in the published order, duplicates included."""
    rng = np.random.default_rng(SEED)
    yield from _single_objects(rng)
    tasks: tuple[Callable[[np.random.Generator], Metadata], ...] = (
        _two_objects, _counting, _color, _position, _color_attribution,
    )  # fmt: skip
    for draw in tasks:
        for _ in range(DRAWS_PER_TASK):
            yield draw(rng)


@functools.cache
def official_metadata_jsonl() -> bytes:
    """The official ``evaluation_metadata.jsonl``; ``EvaluatorError`` where NumPy draws another."""
    # 27 of the 580 draws repeat an earlier one, of which the benchmark keeps the first.
    lines = dict.fromkeys(json.dumps(entry) for entry in _draw_suite())
    content = "".join(f"{line}\n" for line in lines).encode()
    digest = hashlib.sha256(content).hexdigest()
    # NumPy promises no stream across versions; other prompts would be another benchmark.
    if digest != METADATA_SHA256:
        raise EvaluatorError(
            f"GenEval's metadata came out with sha256 {digest}, not {METADATA_SHA256}: this NumPy "
            f"({np.__version__}) draws other random numbers; install one of the supported range"
        )
    return content


def official_metadata() -> list[Metadata]:
    """The 553 entries: ``tag``, ``include``, ``prompt`` and, for counting, ``exclude``."""
    # Read again for each caller, who may change what it gets.
    return [json.loads(line) for line in official_metadata_jsonl().splitlines()]
