"""What a class that configurations name has to say of itself, checked when it is first named."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Iterator, Sequence

from soarbench.common.errors import ConfigError

#: Their classes share a kind where they give the same results, which tests see to.
_OWN_PACKAGES = ("baselines", "evaluators", "soarbench")
_ABSENT = object()


def dotted(kind: type) -> str:
    """A class as ``_target_`` names it."""
    return f"{kind.__module__}.{kind.__qualname__}"


# Cached, since every composition names the same classes.
@functools.cache
def check_declared(kind: type) -> None:
    """``ConfigError`` where a class lacks a fact that its bases ask for, or has it of a wrong type.

    A fact is an annotated ``ClassVar``; one that a property takes the place of is not looked at.
    """
    facts = dict(_facts(kind))
    absent = [name for name in facts if inspect.getattr_static(kind, name, _ABSENT) is _ABSENT]
    if absent:
        lines = " and ".join(f"`{name} = ...`" for name in absent)
        raise ConfigError(f"{dotted(kind)} lacks {', '.join(absent)}: add {lines} to the class")
    for name, hint in facts.items():
        value = inspect.getattr_static(kind, name)
        if isinstance(value, (property, functools.cached_property)) or _fits(hint, value):
            continue
        is_bare = isinstance(value, str) and typing.get_origin(hint) is tuple
        remedy = f"; write ({value!r},) with its comma" if is_bare else ""
        expected = inspect.formatannotation(hint)
        raise ConfigError(f"{dotted(kind)}.{name}={value!r} must be of type {expected}{remedy}")
    _check_kind(kind)


def _facts(kind: type) -> Iterator[tuple[str, object]]:
    """The class's annotated class variables, each with its type."""
    try:
        hints = typing.get_type_hints(kind)
    except NameError as error:
        raise ConfigError(
            f"{dotted(kind)}: an annotation of it cannot be read ({error}); import what it names, "
            "and not under TYPE_CHECKING alone"
        ) from error
    for name, hint in hints.items():
        if typing.get_origin(hint) is typing.ClassVar:
            yield name, typing.get_args(hint)[0]


def _check_kind(kind: type) -> None:
    """Refuse the kind of another class: in addresses, the results of the two would be one."""
    if kind.__module__.partition(".")[0] in _OWN_PACKAGES or "kind" in vars(kind):
        return
    for other in kind.__mro__[1:]:
        if isinstance(vars(other).get("kind"), str):
            raise ConfigError(
                f"{dotted(kind)} has the kind {vars(other)['kind']!r} of {other.__name__}, whose "
                "results would pass for its own; give it `kind = ...` of its own"
            )


def _fits(hint: object, value: object) -> bool:
    """Whether a value is of a type, as far as simple types go."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(one, value) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return _fits_tuple(arguments, value)
    if hint in (int, float):
        accepted = (int, float) if hint is float else (int,)
        return isinstance(value, accepted) and not isinstance(value, bool)
    kind = origin or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _fits_tuple(arguments: Sequence[object], value: object) -> bool:
    # A list does no harm; a text would be taken letter by letter.
    if not isinstance(value, (tuple, list)):
        return False
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(_fits(arguments[0], item) for item in value)
    return len(value) == len(arguments) and all(map(_fits, arguments, value))
