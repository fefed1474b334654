"""The grammar of the drawn world: what can be asked for, how it is said, and where it is put."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from soarbench.lab.world.scenes import COLORS, SHAPES, PlacedObject, Scene, Style, random_style

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
# Short, for 64 pixels: PP-OCR read 95 to 100 % of drawn words of three or four letters.
WORDS = (
    "CAT", "DOG", "SUN", "SKY", "BUS", "HAT", "MAP", "TEA",
    "CUP", "BOX", "KEY", "INK", "FLY", "JAM", "OWL", "ZEN",
)  # fmt: skip
COUNT_WORDS = {2: "two", 3: "three", 4: "four"}
# Not among the prefixes of training: there are only five single objects, whose evaluation prompts
# differ from every training caption by it alone.
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
#: Compositions of each kind in the evaluation suites.
GENEVAL_PROMPTS_PER_TASK = 10
TUNING_PROMPTS_PER_TASK = 8
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

    def metadata(self) -> dict[str, object]:
        """GenEval's metadata of this composition, with the evaluation prompt."""
        include = [want.clause() for want in self.wants]
        row: dict[str, object] = {"tag": self.tag, "include": include}
        if self.tag == "counting":
            # As in GenEval: "at least" for all other tasks, exactly as many for this one.
            want = self.wants[0]
            row["exclude"] = [{"class": want.shape, "count": want.count + 1}]
        row["prompt"] = EVALUATION_PREFIX + self.phrase
        return row


def _every_composition() -> Iterator[Composition]:
    # The order is part of the world: the split and every drawn picture are indices into it.
    for shape in SHAPES:
        yield Composition("single_object", f"a {shape}", (Want(shape),))
    for a, b in itertools.permutations(SHAPES, 2):
        yield Composition("two_object", f"a {a} and a {b}", (Want(a), Want(b)))
    for shape, (count, word) in itertools.product(SHAPES, COUNT_WORDS.items()):
        yield Composition("counting", f"{word} {shape}s", (Want(shape, count),))
        for color in COLORS:
            wants = (Want(shape, count, color),)
            yield Composition("counting", f"{word} {color} {shape}s", wants)
    for shape, color in itertools.product(SHAPES, COLORS):
        yield Composition("colors", f"a {color} {shape}", (Want(shape, color=color),))
    pairs = list(itertools.permutations(SHAPES, 2))
    for (a, b), relation in itertools.product(pairs, RELATIONS):
        # What stands in a relation comes second: GenEval's relations are to an earlier clause.
        placed = (Want(b), Want(a, relation=relation))
        yield Composition("position", f"a {a} {relation} a {b}", placed)
    for (a, b), (one, other) in itertools.product(pairs, itertools.permutations(COLORS, 2)):
        painted = (Want(a, color=one), Want(b, color=other))
        yield Composition("color_attr", f"a {one} {a} and a {other} {b}", painted)
    for word, color in itertools.product(WORDS, COLORS):
        phrase = f'a {color} sign that says "{word}"'
        yield Composition("text", phrase, text=word, sign_color=color)


@functools.cache
def all_compositions() -> dict[str, tuple[Composition, ...]]:
    """Every composition of the world, by kind."""
    groups = itertools.groupby(_every_composition(), key=lambda composition: composition.tag)
    return {kind: tuple(group) for kind, group in groups}


@dataclass(frozen=True)
class Split:
    """Compositions of the three evaluation suites and, by kind, of the training data.

    Those that settings are tuned on are in no evaluation suite, but this world is too small to keep
    them from training, too: it has ten pairs of objects and ten colours that are not evaluated.
    """

    geneval: tuple[Composition, ...]
    ocr: tuple[Composition, ...]
    drawbench: tuple[Composition, ...]
    training: dict[str, tuple[Composition, ...]]
    tuning_geneval: tuple[Composition, ...]
    tuning_drawbench: tuple[Composition, ...]


@functools.cache
def split() -> Split:
    """Hold the evaluation compositions out of training, from a fixed seed; but single objects."""
    rng = np.random.default_rng(_SPLIT_SEED)
    pools = {
        kind: [c[i] for i in rng.permutation(len(c))] for kind, c in all_compositions().items()
    }
    # GenEval counts without naming colours; the coloured counts go to the preference suite.
    pools["counting"].sort(key=lambda c: c.wants[0].color is not None)
    geneval: list[Composition] = list(pools["single_object"])
    for kind in TASKS[1:]:
        # There are 15 counts without a colour, and training needs most of them.
        take = 5 if kind == "counting" else GENEVAL_PROMPTS_PER_TASK
        geneval += [pools[kind].pop(0) for _ in range(take)]
    ocr = [pools["text"].pop(0) for _ in range(OCR_PROMPTS)]
    drawbench = [pools[kind].pop() for kind, take in DRAWBENCH_SHARES.items() for _ in range(take)]
    training = {kind: tuple(pool) for kind, pool in pools.items()}
    # The single objects are all evaluated.
    tuned = [c for kind in TASKS[1:] for c in training[kind][:TUNING_PROMPTS_PER_TASK]]
    shown = [c for kind, take in DRAWBENCH_SHARES.items() for c in training[kind][-take:]]
    return Split(tuple(geneval), tuple(ocr), tuple(drawbench), training, tuple(tuned), tuple(shown))


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


def training_composition(
    rng: np.random.Generator, kinds: Sequence[str] | None = None
) -> Composition:
    """Draw a composition of the training distribution, of some kinds or of all."""
    shares = {k: share for k, share in TRAINING_SHARES.items() if kinds is None or k in kinds}
    total = sum(shares.values())
    kind = list(shares)[rng.choice(len(shares), p=[s / total for s in shares.values()])]
    pool = split().training[kind]
    return pool[rng.integers(len(pool))]


# Objects stand near the centres of the quadrants, which keeps them apart: the detector takes shapes
# that touch for one.
_LOW, _HIGH = 18.0, 46.0
_QUADRANTS = ((_LOW, _LOW), (_HIGH, _LOW), (_LOW, _HIGH), (_HIGH, _HIGH))


def _spots(composition: Composition, rng: np.random.Generator) -> Sequence[tuple[float, float]]:
    """Centres for the objects of a composition, in the order of its wants."""
    total = sum(want.count for want in composition.wants)
    if total <= 1:
        return [(32.0, 32.0)]
    if total > 2:
        return [_QUADRANTS[i] for i in rng.choice(4, size=total, replace=False)]
    across = float(rng.choice([_LOW, 32.0, _HIGH]))
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
    radius, shift = (17.0, 3.0) if len(spots) == 1 else (11.0, 2.0)
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
