"""Strict conversion of plain mappings (from YAML) into frozen dataclasses."""

from __future__ import annotations

import abc
import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from baselines.config import ADDRESS as ADDRESS
from baselines.config import ADDRESS_IF_SET as ADDRESS_IF_SET
from soarbench.common.declared import check_declared
from soarbench.common.declared import dotted as dotted
from soarbench.common.errors import ConfigError, import_failure

# OmegaConf's structured configs check types too, but know neither Literal nor subclasses, and
# their messages take several lines.

T = typing.TypeVar("T")
TARGET = "_target_"
#: Names, and the characters of them all, that a line has room for.
_MOST_LISTED = 20
_LONGEST_LIST = 200
_SCALARS: dict[object, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "an integer"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    Path: ((str,), "a path"),
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt word: the closest known ones, or all of them."""
    names = sorted(set(known))
    # A list of a hundred names is no remedy.
    is_short = len(names) <= _MOST_LISTED and len(", ".join(names)) <= _LONGEST_LIST
    cutoff = 0.6 if is_short else 0.0
    close = difflib.get_close_matches(word, names, n=3, cutoff=cutoff)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "choose one of " + ", ".join(names) if names else "there are none"


@functools.cache
def typed_fields(kind: type) -> Mapping[str, tuple[object, dataclasses.Field[typing.Any]]]:
    """A dataclass's fields by name, each after its type."""
    # Cached, since Python evaluates the text of every annotation again each time: to list the keys
    # of a composition took 9 ms, and takes 2.
    hints = typing.get_type_hints(kind)
    assert dataclasses.is_dataclass(kind)
    return {entry.name: (hints[entry.name], entry) for entry in dataclasses.fields(kind)}


def is_needed(entry: dataclasses.Field[typing.Any]) -> bool:
    """Whether a field has no default."""
    return entry.default is entry.default_factory is dataclasses.MISSING


def build(kind: type[T], values: Mapping[str, object], where: str) -> T:
    """Make a dataclass of its fields; nested mappings become nested dataclasses.

    Args:
        kind: The dataclass.
        values: Its fields.
        where: Full key of ``values``, for messages.

    Raises:
        ConfigError: An unknown or missing key, a wrong type, or a value that the class refuses.
    """
    fields = typed_fields(typing.cast(type, kind))
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown key {prefix + key!r}: {did_you_mean(key, fields)}")
    for name, (_, entry) in fields.items():
        if is_needed(entry) and name not in values:
            raise ConfigError(f"{prefix}{name} is missing: give it a value")
    arguments = {
        key: convert(fields[key][0], value, f"{prefix}{key}") for key, value in values.items()
    }
    try:
        return kind(**arguments)
    except ValueError as error:
        message = str(error)
        raise ConfigError(message if where in message else f"{where}: {message}") from error


def convert(hint: object, value: object, key: str) -> object:
    """Check a value against a type hint and make it that type; ``ConfigError`` where it is not."""
    if hint is object:
        return value
    if hint in _SCALARS:
        return _scalar(hint, value, key)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _nested(hint, value, key)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, key)
    if origin is typing.Literal:
        if value not in arguments:
            known = ", ".join(str(choice) for choice in arguments)
            raise ConfigError(f"{key}={value!r} must be one of {known}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, key)
    if origin in (dict, Mapping):
        group = _group(value, key)
        return {name: convert(arguments[1], item, f"{key}.{name}") for name, item in group.items()}
    raise ConfigError(
        f"{key}: a field of type {inspect.formatannotation(hint)} cannot be configured; annotate "
        "it with a plain type, tuple[...], dict[...] or a dataclass"
    )


def _scalar(hint: object, value: object, key: str) -> object:
    accepted, expected = _SCALARS[hint]
    # Python's true is the integer 1: training.steps=true would be one step.
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{key}={value!r} must be {expected}")
    if hint is Path:
        # Unlike Path's own, it leaves a user that does not exist as it is.
        return Path(os.path.expanduser(str(value)))
    return float(value) if hint is float and isinstance(value, int) else value


def _group(value: object, key: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={value!r} must be a group of keys")
    return {str(name): entry for name, entry in value.items()}


def _nested(base: type, value: object, key: str) -> object:
    """A dataclass, or the subclass of an abstract one that ``_target_`` names."""
    values = _group(value, key)
    target = values.pop(TARGET, None)
    if target is None:
        # A class of which there are several is never guessed.
        if inspect.isabstract(base):
            raise ConfigError(f"{key}.{TARGET} is missing: it says which class this is")
        return build(base, values, key)
    return build(component_class(base, target, key), values, key)


def component_class(base: type[T], target: object, key: str) -> type[T]:
    """The class that a configuration names; imported when it is first named.

    Args:
        base: What it has to be; only an abstract one may have subclasses of anybody's.
        target: Dotted path.
        key: Of the group that names it, for messages.

    Raises:
        ConfigError: It does not exist, is no such class, or lacks what such a class has to say.
    """
    where = f"{key}.{TARGET}"
    # Only what is declared abstract says what a subclass needs.
    is_open = isinstance(base, abc.ABCMeta)
    if target == dotted(base) and not inspect.isabstract(base):
        return base
    known = [dotted(kind) for kind in (_concrete(base) if is_open else [base])]
    if not isinstance(target, str) or not is_open:
        raise ConfigError(f"{where}={target!r}: {did_you_mean(str(target), known)}")
    try:
        kind = imported(target, where)
    except ConfigError as error:
        raise ConfigError(f"{error}; {did_you_mean(target, known)}") from error
    if isinstance(kind, type) and issubclass(kind, base) and not inspect.isabstract(kind):
        check_declared(typing.cast(type, kind))
        return kind
    if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
        absent = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
        raise ConfigError(f"{where}={target!r} lacks {absent}: write what is missing")
    hint = did_you_mean(target, known)
    raise ConfigError(f"{where}={target!r} is no {base.__name__} that can be made; {hint}")


def _concrete(base: type[T]) -> Iterator[type[T]]:
    """The subclasses that are imported so far and can be made."""
    if not inspect.isabstract(base):
        yield base
    for kind in base.__subclasses__():
        yield from _concrete(kind)


def _union(members: Sequence[object], value: object, key: str) -> object:
    if value is None and type(None) in members:
        return None
    rest = [member for member in members if member is not type(None)]
    # Text or a mapping, as a reward is: which of both it is, the value itself says.
    if len(rest) == 1:
        return convert(rest[0], value, key)
    for member in rest:
        is_text = member is str and isinstance(value, str)
        if is_text or (typing.get_origin(member) is dict and isinstance(value, Mapping)):
            return convert(member, value, key)
    raise ConfigError(f"{key}={value!r} is of the wrong type")


def _tuple(arguments: Sequence[object], value: object, key: str) -> tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{key}={value!r} must be a list, e.g. [{value}]")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = [arguments[0]] * len(value)
    if len(value) != len(arguments):
        raise ConfigError(f"{key}={list(value)!r} must have {len(arguments)} entries")
    pairs = enumerate(zip(arguments, value, strict=True))
    return tuple(convert(kind, item, f"{key}[{i}]") for i, (kind, item) in pairs)


def imported(dotted_path: str, key: str) -> object:
    """What a dotted path names; ``ConfigError`` where nothing of that name can be imported."""
    module_name, _, name = dotted_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name)
    # A module of anybody's may do anything when it is imported; sys.exit would end without a word.
    except (Exception, SystemExit) as error:
        reason = import_failure(error)
        raise ConfigError(f"{key}={dotted_path!r} cannot be imported ({reason})") from error


def plain(value: object) -> object:
    """Dataclasses as mappings, all through."""
    # Not dataclasses.asdict: it deep-copies what is no dataclass, and keeps tuples.
    if dataclasses.is_dataclass(value):
        value = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    return _inside(value, plain)


def address_content(value: object) -> object:
    """What of a configuration enters an address, as plain JSON values.

    Fields that are marked ``ADDRESS`` are left out: they change speed, memory or words, and no
    number. So are those marked ``ADDRESS_IF_SET`` that have their default.
    """
    if not dataclasses.is_dataclass(value):
        return _inside(value, address_content)
    entries = dataclasses.fields(value)
    content = {
        entry.name: address_content(getattr(value, entry.name))
        for entry in entries
        if entry.metadata.get("address", True)
        and not (entry.metadata == ADDRESS_IF_SET and getattr(value, entry.name) == entry.default)
    }
    # A component is named by its kind, not by its class, which may move.
    kind = getattr(type(value), "kind", None)
    # A field of that name is a setting like any other.
    if isinstance(kind, str) and all(entry.name != "kind" for entry in entries):
        content["kind"] = kind
    return content


def _inside(value: object, convert_item: Callable[[object], object]) -> object:
    """The same for what a container holds."""
    if isinstance(value, Mapping):
        return {str(key): convert_item(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [convert_item(item) for item in value]
    return value
