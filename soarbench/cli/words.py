"""The one reader of ``key=value``: a command's own words become its typed options."""

from __future__ import annotations

import typing
from collections.abc import Sequence

from soarbench.common.errors import ConfigError
from soarbench.common.strict import build, is_needed, typed_fields
from soarbench.config.composition import compose_choices
from soarbench.config.folders import CONF_DIR
from soarbench.config.grammar import value_of
from soarbench.config.keys import Options, UnknownKeyError, hint_of, known_keys, split

T = typing.TypeVar("T", bound=Options)


def read(kind: type[T], words: Sequence[str]) -> tuple[T, list[str]]:
    """Part a command line into the command's own options and the settings of a run.

    Args:
        kind: The command's own options.
        words: ``key=value``; of two of one key the last one counts.

    Raises:
        ConfigError: A word is unknown, its value cannot work, or one is missing.
    """
    values: dict[str, typing.Any] = {}
    settings = []
    for text in words:
        word = split(text)
        hint = hint_of(kind, {}, word.key, any_name=True)
        if hint is not None:
            *groups, last = word.key.split(".")
            group = values
            for name in groups:
                group = group.setdefault(name, {})
            group[last] = value_of(word, hint)
        elif word.key in kind.renamed:
            new = kind.renamed[word.key]
            raise ConfigError(f"{word}: this is called {new}=... now, as everywhere")
        elif _takes(kind, word.key):
            settings.append(text)
        else:
            # As the default grid has them: here is no other.
            known = {key for key in compose_choices([]).known() if _takes(kind, key)}
            raise UnknownKeyError(word, own_keys(kind) | known)
    for name, (_, entry) in typed_fields(typing.cast(type, kind)).items():
        if is_needed(entry) and name not in values:
            raise ConfigError(f"{name}= is missing, e.g. {kind.example}")
    return build(kind, values, ""), settings


def own_keys(kind: type[Options]) -> set[str]:
    """The keys of a command itself."""
    return {*known_keys(kind, {})} | ({CONF_DIR} if _takes(kind, CONF_DIR) else set())


def _takes(kind: type[Options], key: str) -> bool:
    """Whether a command takes a setting of a run."""
    return kind.settings is None or key.partition(".")[0] in kind.settings
