"""One value of a command line or of YAML, in Hydra's grammar; refused in one line."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import typing
from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from soarbench.common.errors import ConfigError
from soarbench.config.keys import SWEPT, Word, members


def value_of(word: Word, hint: object) -> object:
    """A word's value as plain data, read as its type asks for.

    Text needs no quotes; they are for a text that begins with one, or that says null. Anything else
    is written in Hydra's grammar, and a list needs no brackets: ``seeds=0,1``.
    """
    kinds = members(hint)
    # An empty output_dir would be the current folder, an empty tracking.uri a store that is lost.
    if not word.text:
        raise ConfigError(f"{word.key}= is empty: give it a value; '' is an empty text")
    holds_list = any(typing.get_origin(kind) is tuple for kind in kinds)
    is_grouped = word.text[0] in "'\"" or (word.text[0] == "{" and len(kinds) > 1)
    # Paths and prompts hold what Hydra's grammar does not: ~, commas, equals signs, backslashes,
    # letters beyond ASCII.
    if not holds_list and not is_grouped and any(map(_is_text, kinds)):
        return None if word.text == "null" else _usable_text(word)
    try:
        value = in_grammar(word, takes_several=holds_list)
    except ConfigError:
        if hint is not object:
            raise
        return _usable_text(word)
    if holds_list and value is not None:
        return as_list(value)
    # No comparison refuses it later: a threshold of nan kept every row, and images drawn with a
    # guidance of nan were judged as if they were pictures.
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{word}: must be a number")
    return value


def _is_text(kind: object) -> bool:
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return kind in (str, Path) or any(isinstance(choice, str) for choice in choices)


def _usable_text(word: Word) -> str:
    path = os.path.expanduser(word.text)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        mode = stat.S_IFREG
    # A pipe hung the command: digest and reader both want it, and /dev/zero never ends.
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(f"{word}: is a pipe or a device; name a file or a folder")
    if path.startswith("~"):
        raise ConfigError(f"{word}: there is no such user; quote a text that begins with ~")
    return word.text


def as_list(value: object) -> list[object]:
    """The choices of a sweep, the items of a list, or the one value."""
    items = value.list if isinstance(value, ChoiceSweep) else value
    return [getattr(i, "text", i) for i in items] if isinstance(items, list) else [items]


def in_grammar(word: Word, *, takes_several: bool) -> object:
    """A value in Hydra's grammar; ``a,b`` is a ``ChoiceSweep`` where several can be taken."""
    try:
        override = OverridesParser.create().parse_override(f"x={word.text}")
        value: object = override.value()
    # ValueError: a number of 5,000 digits.
    except (HydraException, ValueError) as error:
        raise ConfigError(
            f"{str(word)!r} is not an override: write key=value, e.g. budget=quick or "
            f"seeds=[0,1,2], with quotes around what is no plain word ({_first_line(error)})"
        ) from error
    is_several = takes_several and isinstance(value, ChoiceSweep)
    if override.is_sweep_override() and not is_several:
        raise only_axes_take_several(word)
    return value


def choices_of(word: Word) -> list[Word]:
    """A word for each value of ``KEY=a,b``; the word itself where it has one, or is no such."""
    try:
        override = OverridesParser.create().parse_override(f"x={word.text}")
    # ValueError: a number of 5,000 digits.
    except (HydraException, ValueError):
        return [word]
    if not override.is_choice_sweep():
        return [word]
    return [Word(word.key, text) for text in override.sweep_string_iterator()]


def only_axes_take_several(word: Word) -> ConfigError:
    """What to raise of a word with several values that can have one."""
    return ConfigError(
        f"{word}: only method, task and a method's settings ({', '.join(SWEPT)}) take several "
        "values"
    )


@contextlib.contextmanager
def in_one_line(where: str = "") -> Iterator[None]:
    """What Hydra, OmegaConf or YAML refuse, as a ``ConfigError``; theirs go on for more lines."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}{_first_line(error)}") from error
    except yaml.YAMLError as error:
        # The file and the line stand at its end.
        raise ConfigError(f"{where}this is no YAML: {' '.join(str(error).split())}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
