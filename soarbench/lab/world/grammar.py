"""The grammar of the drawn world: what can be asked for, how it is said, and where it is put."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.lab.world.scenes import (
    COLORS,
    IMAGE_SIZE,
    SHAPES,
    PlacedObject,
    Scene,
    Style,
    random_style,
)

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
#: Where a single object can be asked to be: its column and its row, from 0 to 2.
PLACES = {
    "at the top": (1, 0),
    "at the bottom": (1, 2),
    "on the left": (0, 1),
    "on the right": (2, 1),
    "in the top left corner": (0, 0),
    "in the top right corner": (2, 0),
    "in the bottom left corner": (0, 2),
    "in the bottom right corner": (2, 2),
}
# Short, for 64 pixels: PP-OCR read 95 to 100 % of drawn words of three or four letters.
WORDS = (
    "CAT", "DOG", "SUN", "SKY", "BUS", "HAT", "MAP", "TEA",
    "CUP", "BOX", "KEY", "INK", "FLY", "JAM", "OWL", "ZEN",
    "BED", "FOX", "GAS", "LEG", "NUT", "PEN", "RUM", "VAN",
)  # fmt: skip
COUNT_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
# There is room for four objects.
TWO_COUNTS = ((2, 1), (3, 1), (2, 2))
# Not among the prefixes of training: no evaluation prompt is a training caption, whatever its
# composition.
EVALUATION_PREFIX = "a photo of "
TRAINING_PREFIXES = ("a picture of ", "a drawing of ", "an image of ", "")
# How often each kind is drawn in training; hard kinds more often. Drawn alike, a prototype came to
# 0.75 of the single objects and 0.05 of the positions.
TRAINING_SHARES = {
    "single_object": 0.05,
    "two_object": 0.12,
    "counting": 0.18,
    "colors": 0.12,
    "position": 0.18,
    "color_attr": 0.15,
    "text": 0.20,
}
#: Compositions of each kind in the evaluation suites; of single objects fewer are tuned on, since
#: there are 45 in all.
GENEVAL_PROMPTS_PER_TASK = 34
TUNING_PROMPTS_PER_TASK = {
    "single_object": 4, "two_object": 8, "counting": 8, "colors": 8, "position": 8, "color_attr": 8,
}  # fmt: skip
OCR_PROMPTS = 34
DRAWBENCH_SHARES = {"counting": 25, "colors": 25, "position": 80, "color_attr": 60, "text": 10}
TUNING_DRAWBENCH_SHARES = {"counting": 8, "colors": 5, "position": 15, "color_attr": 12}
_SPLIT_SEED = 43


@dataclass(frozen=True)
class Want:
    """One wanted kind of object; ``relation`` is to the first want of the composition."""

    shape: str
    count: int = 1
    color: str | None = None
    relation: str | None = None

    def clause(self) -> dict[str, object]:
        """As GenEval's metadata has it."""
        color = {} if self.color is None else {"color": self.color}
        position = {} if self.relation is None else {"position": [self.relation, 0]}
        return {"class": self.shape, "count": self.count, **color, **position}


@dataclass(frozen=True)
class Composition:
    """What a picture must show; ``phrase`` is the caption without its prefix."""

    tag: str
    phrase: str
    wants: tuple[Want, ...] = ()
    text: str | None = None
    sign_color: str | None = None
    place: str | None = None

    def metadata(self) -> dict[str, object]:
        """GenEval's metadata of this composition, with the evaluation prompt."""
        include = [want.clause() for want in self.wants]
        row: dict[str, object] = {"tag": self.tag, "include": include}
        if self.tag == "counting":
            # As in GenEval: "at least" for all other tasks, exactly as many for this one.
            row["exclude"] = [{"class": want.shape, "count": want.count + 1} for want in self.wants]
        if self.place is not None:
            # GenEval has no such demand: the laboratory's detector looks at that place alone.
            row["place"] = self.place
        row["prompt"] = EVALUATION_PREFIX + self.phrase
        return row


def _of_one() -> Iterator[Composition]:
    """One object, without a colour and with, anywhere and in a place."""
    for shape, place in itertools.product(SHAPES, (None, *PLACES)):
        where = "" if place is None else f" {place}"
        yield Composition("single_object", f"a {shape}{where}", (Want(shape),), place=place)
    for shape, color, place in itertools.product(SHAPES, COLORS, (None, *PLACES)):
        where, wants = "" if place is None else f" {place}", (Want(shape, color=color),)
        yield Composition("colors", f"a {color} {shape}{where}", wants, place=place)


def _of_several() -> Iterator[Composition]:
    """Two objects or three, and two to four of one kind or of two."""
    for a, b in itertools.permutations(SHAPES, 2):
        yield Composition("two_object", f"a {a} and a {b}", (Want(a), Want(b)))
    for a, b, c in itertools.permutations(SHAPES, 3):
        three = (Want(a), Want(b), Want(c))
        yield Composition("two_object", f"a {a}, a {b} and a {c}", three)
    for shape, count in itertools.product(SHAPES, (2, 3, 4)):
        said = COUNT_WORDS[count]
        yield Composition("counting", f"{said} {shape}s", (Want(shape, count),))
        for color in COLORS:
            painted = (Want(shape, count, color),)
            yield Composition("counting", f"{said} {color} {shape}s", painted)
    for (a, b), (many, few) in itertools.product(itertools.permutations(SHAPES, 2), TWO_COUNTS):
        said = f"{COUNT_WORDS[many]} {a}s and {COUNT_WORDS[few]} {b}{'s' if few > 1 else ''}"
        yield Composition("counting", said, (Want(a, many), Want(b, few)))


def _of_pairs() -> Iterator[Composition]:
    """Two objects in a relation, with the colours of none, one or both, and in two colours."""
    pairs = list(itertools.permutations(SHAPES, 2))
    two_colors = list(itertools.permutations(COLORS, 2))
    painted = [(None, None), *((c, None) for c in COLORS), *((None, c) for c in COLORS)]
    for (a, b), relation, (one, other) in itertools.product(
        pairs, RELATIONS, (*painted, *two_colors)
    ):
        # What stands in a relation comes second: GenEval's relations are to an earlier clause.
        wants = (Want(b, color=other), Want(a, color=one, relation=relation))
        left, right = (f"{c} {s}" if c else s for c, s in ((one, a), (other, b)))
        yield Composition("position", f"a {left} {relation} a {right}", wants)
    for (a, b), (one, other) in itertools.product(pairs, two_colors):
        both = (Want(a, color=one), Want(b, color=other))
        yield Composition("color_attr", f"a {one} {a} and a {other} {b}", both)


def _every_composition() -> Iterator[Composition]:
    # The order is part of the world: the split and every drawn picture are indices into it.
    yield from itertools.chain(_of_one(), _of_several(), _of_pairs())
    for word, color in itertools.product(WORDS, COLORS):
        phrase = f'a {color} sign that says "{word}"'
        yield Composition("text", phrase, text=word, sign_color=color)


@functools.cache
def all_compositions() -> dict[str, tuple[Composition, ...]]:
    """Every composition of the world, by kind."""
    groups: dict[str, list[Composition]] = {}
    for composition in _every_composition():
        groups.setdefault(composition.tag, []).append(composition)
    return {kind: tuple(group) for kind, group in groups.items()}


@dataclass(frozen=True)
class Split:
    """Compositions of the evaluation and tuning suites, and by kind those that are trained on.

    No composition is in two parts.
    """

    geneval: tuple[Composition, ...]
    ocr: tuple[Composition, ...]
    drawbench: tuple[Composition, ...]
    training: dict[str, tuple[Composition, ...]]
    tuning_geneval: tuple[Composition, ...]
    tuning_drawbench: tuple[Composition, ...]


@functools.cache
def split() -> Split:
    """Divide all compositions, from a fixed seed."""
    rng = np.random.default_rng(_SPLIT_SEED)
    pools = {
        kind: [c[i] for i in rng.permutation(len(c))] for kind, c in all_compositions().items()
    }
    for kind in ("counting", "position"):
        # GenEval counts and places without naming colours; the preference suites name them.
        pools[kind].sort(key=lambda c: sum(want.color is not None for want in c.wants))

    def first(shares: Mapping[str, int]) -> tuple[Composition, ...]:
        return tuple(pools[kind].pop(0) for kind, take in shares.items() for _ in range(take))

    def last(shares: Mapping[str, int]) -> tuple[Composition, ...]:
        return tuple(pools[kind].pop() for kind, take in shares.items() for _ in range(take))

    return Split(
        geneval=first(dict.fromkeys(TASKS, GENEVAL_PROMPTS_PER_TASK)),
        ocr=first({"text": OCR_PROMPTS}),
        drawbench=last(DRAWBENCH_SHARES),
        tuning_geneval=first(TUNING_PROMPTS_PER_TASK),
        tuning_drawbench=last(TUNING_DRAWBENCH_SHARES),
        # Last, of what the others left.
        training={kind: tuple(pool) for kind, pool in pools.items()},
    )


@functools.cache
def by_caption() -> dict[str, Composition]:
    """What every training caption asks for."""
    pools = all_compositions().values()
    return {prefix + c.phrase: c for pool in pools for c in pool for prefix in TRAINING_PREFIXES}


def demands(caption: str) -> dict[str, object]:
    """GenEval's metadata of a training caption; empty for one that asks for a text."""
    composition = by_caption().get(caption)
    if composition is None:
        raise ValueError(f"{caption!r} is no caption of the drawn world")
    return {**composition.metadata(), "prompt": caption} if composition.wants else {}


@functools.cache
def _training_groups() -> dict[str, list[list[Composition]]]:
    """Of each kind, by how many colours are named."""
    # All alike: a position without a colour, as GenEval asks for, is one in 62.
    groups: dict[str, dict[int, list[Composition]]] = {kind: {} for kind in TRAINING_SHARES}
    for kind, pool in split().training.items():
        for composition in pool:
            named = sum(want.color is not None for want in composition.wants)
            groups[kind].setdefault(named, []).append(composition)
    return {kind: list(by_number.values()) for kind, by_number in groups.items()}


def training_composition(
    rng: np.random.Generator, kinds: Sequence[str] | None = None
) -> Composition:
    """Draw a composition of the training distribution, of some kinds or of all."""
    shares = {k: share for k, share in TRAINING_SHARES.items() if kinds is None or k in kinds}
    total = sum(shares.values())
    kind = list(shares)[rng.choice(len(shares), p=[s / total for s in shares.values()])]
    groups = _training_groups()[kind]
    group = groups[rng.integers(len(groups))]
    return group[rng.integers(len(group))]


# Objects stand near the centres of the quadrants, which keeps them apart: the detector takes shapes
# that touch for one.
_LOW, _HIGH = 18.0, 46.0
_LINES = (_LOW, 32.0, _HIGH)
_QUADRANTS = ((_LOW, _LOW), (_HIGH, _LOW), (_LOW, _HIGH), (_HIGH, _HIGH))


def is_in_place(box: tuple[float, float, float, float], size: tuple[int, int], place: str) -> bool:
    """Whether the middle of a box, x1, y1, x2, y2, is where a place of a picture of a size says."""
    centres = ((box[0] + box[2]) / 2 / size[0], (box[1] + box[3]) / 2 / size[1])
    # Half way between the lines that objects stand near.
    edges = [(a + b) / 2 / IMAGE_SIZE for a, b in itertools.pairwise(_LINES)]
    return tuple(sum(centre > edge for edge in edges) for centre in centres) == PLACES[place]


def _spots(composition: Composition, rng: np.random.Generator) -> Sequence[tuple[float, float]]:
    """Centres for the objects of a composition, in the order of its wants."""
    total = sum(want.count for want in composition.wants)
    if total <= 1:
        column, row = (1, 1) if composition.place is None else PLACES[composition.place]
        return [(_LINES[column], _LINES[row])]
    if total > 2:
        return [_QUADRANTS[i] for i in rng.choice(4, size=total, replace=False)]
    across = float(rng.choice(_LINES))
    # Of the second to the first; where none is asked for the pair stands in any.
    relation = composition.wants[-1].relation or RELATIONS[rng.integers(4)]
    return {
        "left of": ((_HIGH, across), (_LOW, across)),
        "right of": ((_LOW, across), (_HIGH, across)),
        "above": ((across, _HIGH), (across, _LOW)),
        "below": ((across, _LOW), (across, _HIGH)),
    }[relation]


def lay_out(composition: Composition, style: Style, rng: np.random.Generator) -> Scene:
    """Place a composition in a picture: positions, sizes and unsaid colours are drawn."""
    spots = _spots(composition, rng)
    is_alone = len(spots) == 1 and composition.place is None
    radius, shift = (17.0, 3.0) if is_alone else (11.0, 2.0)
    if composition.text is not None:
        # A sign is an object without a shape: only its place counts.
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
    return Sample(scene, str(rng.choice(TRAINING_PREFIXES)) + said.phrase, composition)
