"""Which keys a configuration takes, asked of the dataclasses: YAML may leave any of them out."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from soarbench.common.errors import ConfigError
from soarbench.common.strict import TARGET, component_class, dotted, typed_fields

#: Groups that span the grid; everything else is the same for all cells that have the key.
AXES = ("method", "task")
#: Groups that are a method's own; several values in them are variants of it.
SWEPT = ("method", "optim", "lora", "ema", "training")
_KEY = re.compile(r"[^\W\d][\w/-]*(\.[\w-]+)*")
#: A list of all keys made lines of 1,000 to 3,500 characters.
_NUM_NEAREST = 3
#: A word may be of 100 kB, and the remedy has to stay in sight.
_LONGEST_SHOWN = 80
#: Type and value below a key by name, and the type of any other name; None: there is no other.
Children = tuple[Mapping[str, tuple[object, object]], object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a command takes beside the settings of a run; its fields are the command's own keys.

    Attributes:
        example: A line that works, for messages.
        settings: First parts of the settings of a run that it takes too; None takes them all.
        renamed: What a key is called now, by what it was called.
    """

    example: ClassVar[str] = ""
    settings: ClassVar[tuple[str, ...] | None] = None
    renamed: ClassVar[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Word:
    """One ``key=value`` of a command line; the value is typed once the key's type is known."""

    key: str
    text: str

    def __str__(self) -> str:
        return shown(f"{self.key}={self.text}")


class UnknownKeyError(ConfigError):
    """A key that nothing takes; names the nearest of those that exist."""

    def __init__(self, word: Word, known: Iterable[str], note: str = "") -> None:
        self.word, self.known, self.note = word, frozenset(known), note
        hint = note or nearest(word.key, self.known)
        super().__init__(f"{word}: there is no key {word.key!r} here; {hint}")

    def beside(self, known: Iterable[str]) -> UnknownKeyError:
        """The same, where a command has keys of its own too."""
        return UnknownKeyError(self.word, self.known | set(known), self.note)


def shown(text: str) -> str:
    """A text as far as a message has room for it."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def split(word: str) -> Word:
    """Part a word at its first equals sign; ``ConfigError`` where it is no ``key=value``."""
    key, sign, text = word.partition("=")
    # Hydra's way to add and remove keys would pass by the check that every key is known.
    if key[:1] in ("+", "~"):
        key = key.lstrip("+~")
        raise ConfigError(f"{shown(word)}: keys cannot be added or removed; write {key}=VALUE")
    if not sign or len(key) > _LONGEST_SHOWN or not _KEY.fullmatch(key):
        raise ConfigError(
            f"{shown(word)!r} is not an override: write key=value, e.g. budget=quick or "
            "seeds=[0,1,2]"
        )
    return Word(key, text)


def nearest(key: str, known: Iterable[str]) -> str:
    """A remedy for an unknown key: the few nearest, as a whole and in their last part."""

    def unlikeness(other: str) -> tuple[float, str]:
        short, name = key.rpartition(".")[2], other.rpartition(".")[2]
        # The last part alone finds the right key in the wrong group, and lr is learning_rate.
        is_same = short in (name, "".join(word[:1] for word in name.split("_")))
        pairs = ((key, other), (short, name))
        whole, last = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        # By name where they are alike: sets have another order in every process.
        return -2 * whole - last - 3 * is_same, other

    if not known:
        return "there are none"
    *others, last = [repr(name) for name in sorted(known, key=unlikeness)[:_NUM_NEAREST]]
    return "did you mean " + (f"{', '.join(others)} or {last}?" if others else f"{last}?")


def members(hint: object) -> tuple[object, ...]:
    """A union's types but for None; of any other type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(member for member in typing.get_args(hint) if member is not type(None))
    return (hint,)


def is_group(hint: object) -> bool:
    """Whether a type has keys: a dataclass, a mapping, or a union with one of these."""
    return any(
        dataclasses.is_dataclass(member) or typing.get_origin(member) in (dict, Mapping)
        for member in members(hint)
    )


def hint_of(kind: type, values: object, key: str, *, any_name: bool = False) -> object:
    """The type of what a key holds; None where there is none, or a group on the way is null.

    Args:
        kind: The dataclass at the root.
        values: What is set so far: which class a group is made into decides on its keys.
        key: With dots.
        any_name: Whether a group of named groups takes names that it does not hold yet.
    """
    hint: object = kind
    names = key.split(".")
    for depth, name in enumerate(names, start=1):
        named, other = children(hint, values, key)
        hint, below = named.get(name, (other, {}))
        # suites.NEW={...} gives a group that is whole; suites.NEW.KEY is a misspelt name.
        is_made_up = name not in named and depth < len(names) and not any_name
        if hint is None or (is_made_up and any(map(dataclasses.is_dataclass, members(hint)))):
            return None
        values = below
    return hint


def children(hint: object, values: object, key: str) -> Children:
    """What lies below a key, one level down; ``key`` is for messages alone."""
    # No key of a group that is null: optim.lr=1 beside optim=null would make half an optimiser.
    if values is None:
        return {}, None
    held = values if isinstance(values, Mapping) else {}
    kind = _class_of(hint, held, key)
    if kind is not None:
        named = {
            # Of what nothing sets, groups can be filled in; null cannot.
            name: (of_field, held.get(name, None if entry.default is None else {}))
            for name, (of_field, entry) in typed_fields(kind).items()
        }
        return named | ({TARGET: (str, held[TARGET])} if TARGET in held else {}), None
    for member in members(hint):
        if typing.get_origin(member) in (dict, Mapping):
            other = typing.get_args(member)[1]
            return {str(name): (other, value) for name, value in held.items()}, other
    return {}, None


def _class_of(hint: object, held: Mapping[object, object], key: str) -> type | None:
    """The dataclass that a group is made into; None where it is none, or does not say which."""
    kinds = [m for m in members(hint) if isinstance(m, type) and dataclasses.is_dataclass(m)]
    target = held.get(TARGET)
    for kind in kinds:
        if target == dotted(kind):
            return kind
    if len(kinds) != 1:
        return None
    return kinds[0] if target is None else component_class(kinds[0], target, key)


def known_keys(hint: object, values: object, prefix: str = "") -> Iterator[str]:
    """Every dotted key, groups included; a name that may be any is ``NAME``."""
    named, other = children(hint, values, prefix)
    below = named or ({} if other is None else {"NAME": (other, {})})
    for name, (of_name, held) in below.items():
        yield f"{prefix}{name}"
        yield from known_keys(of_name, held, f"{prefix}{name}.")
