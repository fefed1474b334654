"""The grammar of the drawn world: what can be asked for, how it is said, and where it is put.

Compositions that an evaluation suite uses are held out of training (``evaluation_compositions``).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.lab.world.scenes import (
    COLORS,
    RELATIONS,
    SHAPES,
    WORDS,
    PlacedObject,
    Scene,
    Style,
    random_style,
)

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COUNT_WORDS = {2: "two", 3: "three", 4: "four"}
EVALUATION_PREFIX = "a photo of "
TRAINING_PREFIXES = ("a picture of ", "a drawing of ", "an image of ", "")
#: How often each kind of composition is drawn in training; hard kinds more often.
TRAINING_SHARES = {
    "single_object": 0.05,
    "two_object": 0.12,
    "counting": 0.18,
    "colors": 0.12,
    "position": 0.18,
    "color_attr": 0.15,
    "text": 0.20,
}
#: Compositions of each kind in the evaluation suites.
GENEVAL_PROMPTS_PER_TASK = 10
OCR_PROMPTS = 24
DRAWBENCH_SHARES = {"counting": 10, "colors": 5, "position": 10, "color_attr": 10, "text": 5}
_SPLIT_SEED = 43


@dataclass(frozen=True)
class Want:
    """One wanted kind of object; ``relation`` is to the first want of the composition."""

    shape: str
    count: int = 1
    color: str | None = None
    relation: str | None = None


@dataclass(frozen=True)
class Composition:
    """What a picture must show; ``phrase`` is the caption without its prefix."""

    tag: str
    phrase: str
    wants: tuple[Want, ...] = ()
    text: str | None = None
    sign_color: str | None = None

    def metadata(self) -> dict[str, object]:
        """GenEval's metadata of this composition, with the evaluation prompt."""
        include: list[dict[str, object]] = []
        for want in self.wants:
            entry: dict[str, object] = {"class": want.shape, "count": want.count}
            if want.color is not None:
                entry["color"] = want.color
            if want.relation is not None:
                entry["position"] = [want.relation, 0]
            include.append(entry)
        row: dict[str, object] = {"tag": self.tag, "include": include}
        if self.tag == "counting":
            want = self.wants[0]
            row["exclude"] = [{"class": want.shape, "count": want.count + 1}]
        row["prompt"] = EVALUATION_PREFIX + self.phrase
        return row


def _single_object() -> list[Composition]:
    return [Composition("single_object", f"a {s}", (Want(s),)) for s in SHAPES]


def _two_object() -> list[Composition]:
    return [
        Composition("two_object", f"a {a} and a {b}", (Want(a), Want(b)))
        for a, b in itertools.permutations(SHAPES, 2)
    ]


def _counting() -> list[Composition]:
    clauses = []
    for shape, (count, word) in itertools.product(SHAPES, COUNT_WORDS.items()):
        clauses.append(Composition("counting", f"{word} {shape}s", (Want(shape, count),)))
        for color in COLORS:
            phrase = f"{word} {color} {shape}s"
            clauses.append(Composition("counting", phrase, (Want(shape, count, color),)))
    return clauses


def _colors() -> list[Composition]:
    return [
        Composition("colors", f"a {c} {s}", (Want(s, color=c),))
        for s, c in itertools.product(SHAPES, COLORS)
    ]


def _position() -> list[Composition]:
    clauses = []
    for (a, b), relation in itertools.product(itertools.permutations(SHAPES, 2), RELATIONS):
        wants = (Want(b), Want(a, relation=relation))
        clauses.append(Composition("position", f"a {a} {relation} a {b}", wants))
    return clauses


def _color_attr() -> list[Composition]:
    clauses = []
    for a, b in itertools.permutations(SHAPES, 2):
        for color_a, color_b in itertools.permutations(COLORS, 2):
            wants = (Want(a, color=color_a), Want(b, color=color_b))
            phrase = f"a {color_a} {a} and a {color_b} {b}"
            clauses.append(Composition("color_attr", phrase, wants))
    return clauses


def _text() -> list[Composition]:
    return [
        Composition("text", f'a {color} sign that says "{word}"', (), word, color)
        for word, color in itertools.product(WORDS, COLORS)
    ]


@functools.cache
def all_compositions() -> dict[str, tuple[Composition, ...]]:
    """Every composition of the world, by kind."""
    lists = (_single_object, _two_object, _counting, _colors, _position, _color_attr, _text)
    kinds = (*TASKS, "text")
    return {kind: tuple(build()) for kind, build in zip(kinds, lists, strict=True)}


@dataclass(frozen=True)
class Split:
    """Compositions of the three evaluation suites and, by kind, of the training data."""

    geneval: tuple[Composition, ...]
    ocr: tuple[Composition, ...]
    drawbench: tuple[Composition, ...]
    training: dict[str, tuple[Composition, ...]]


@functools.cache
def split() -> Split:
    """Hold out the evaluation compositions, from a fixed seed.

    There are only five single objects, so those are not held out as compositions: their evaluation
    prompts differ from every training caption by the prefix alone.
    """
    rng = np.random.default_rng(_SPLIT_SEED)
    pools = {
        kind: [c[i] for i in rng.permutation(len(c))] for kind, c in all_compositions().items()
    }
    # GenEval counts without naming colours; the coloured counts go to the preference suite.
    pools["counting"].sort(key=lambda c: c.wants[0].color is not None)
    geneval: list[Composition] = list(pools["single_object"])
    for kind in TASKS[1:]:
        take = 5 if kind == "counting" else GENEVAL_PROMPTS_PER_TASK
        geneval += [pools[kind].pop(0) for _ in range(take)]
    ocr = [pools["text"].pop(0) for _ in range(OCR_PROMPTS)]
    drawbench: list[Composition] = []
    for kind, take in DRAWBENCH_SHARES.items():
        drawbench += [pools[kind].pop() for _ in range(take)]
    training = {kind: tuple(pool) for kind, pool in pools.items()}
    return Split(tuple(geneval), tuple(ocr), tuple(drawbench), training)


@functools.cache
def _by_phrase() -> dict[str, Composition]:
    return {c.phrase: c for kind in all_compositions().values() for c in kind}


def demands(caption: str) -> dict[str, object]:
    """GenEval's metadata of a training caption; empty for one that asks for a text."""
    for prefix in sorted(TRAINING_PREFIXES, key=len, reverse=True):
        composition = _by_phrase().get(caption.removeprefix(prefix))
        if composition is not None:
            metadata = {**composition.metadata(), "prompt": caption}
            return metadata if composition.wants else {}
    raise ValueError(f"{caption!r} is no caption of the drawn world")


def training_composition(
    rng: np.random.Generator, kinds: Sequence[str] | None = None
) -> Composition:
    """Draw a composition of the training distribution, of some kinds or of all."""
    shares = {k: share for k, share in TRAINING_SHARES.items() if kinds is None or k in kinds}
    total = sum(shares.values()) if kinds is not None else 1.0
    kind = list(shares)[rng.choice(len(shares), p=[s / total for s in shares.values()])]
    pool = split().training[kind]
    return pool[rng.integers(len(pool))]


def caption(composition: Composition, rng: np.random.Generator) -> str:
    """Say a composition as a training caption says it: any prefix but the evaluation's."""
    return str(rng.choice(TRAINING_PREFIXES)) + composition.phrase


# Objects stand near the centres of the quadrants, which keeps them apart.
_LOW, _HIGH = 18.0, 46.0
_QUADRANTS = ((_LOW, _LOW), (_HIGH, _LOW), (_LOW, _HIGH), (_HIGH, _HIGH))
_SMALL_RADIUS, _LARGE_RADIUS = 11.0, 17.0


def _spots(composition: Composition, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres for the objects of a composition, in the order of its wants."""
    total = sum(want.count for want in composition.wants)
    if total <= 1:
        return [(32.0, 32.0)]
    relation = composition.wants[-1].relation
    if total > 2:
        chosen = rng.choice(4, size=total, replace=False)
        return [_QUADRANTS[i] for i in chosen]
    across = float(rng.choice([_LOW, 32.0, _HIGH]))
    if relation is None:
        relation = RELATIONS[rng.integers(4)]
    if relation == "left of":
        return [(_HIGH, across), (_LOW, across)]
    if relation == "right of":
        return [(_LOW, across), (_HIGH, across)]
    if relation == "above":
        return [(across, _HIGH), (across, _LOW)]
    return [(across, _LOW), (across, _HIGH)]


def lay_out(composition: Composition, style: Style, rng: np.random.Generator) -> Scene:
    """Place a composition in a picture: positions, sizes and unsaid colours are drawn."""
    spots = _spots(composition, rng)
    radius = _LARGE_RADIUS if len(spots) == 1 else _SMALL_RADIUS
    shift = 3.0 if len(spots) == 1 else 2.0
    if composition.text is not None:
        radius, shift = 0.0, 2.0
    shapes = [want for want in composition.wants for _ in range(want.count)]
    common = {want.shape: COLORS[rng.integers(len(COLORS))] for want in composition.wants}
    pairs = [(want.shape, want.color or common[want.shape]) for want in shapes] or [("", "")]
    objects = []
    for (shape, color), (x, y) in zip(pairs, spots, strict=True):
        x, y = x + rng.uniform(-shift, shift), y + rng.uniform(-shift, shift)
        objects.append(PlacedObject(shape, color, x, y, radius * rng.uniform(0.92, 1.08)))
    return Scene(
        objects=tuple(objects),
        style=style,
        text=composition.text,
        sign_color=composition.sign_color,
        grain_seed=int(rng.integers(2**31)),
        offset=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03))),
    )


@dataclass(frozen=True)
class Sample:
    """A training picture before it is drawn: its caption may be wrong, its style is any."""

    scene: Scene
    caption: str
    composition: Composition


def training_sample(
    rng: np.random.Generator, wrong_captions: float = 0.1, kinds: Sequence[str] | None = None
) -> Sample:
    """Draw one scene of the broad training data; some captions describe another scene."""
    composition = training_composition(rng, kinds)
    said = training_composition(rng, kinds) if rng.random() < wrong_captions else composition
    scene = lay_out(composition, random_style(rng), rng)
    return Sample(scene, caption(said, rng), composition)
