"""Several values of a method's setting: a variant of it for each, in one grid beside each other."""

from __future__ import annotations

import itertools
import math
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from baselines.config import MethodConfig
from soarbench.common.errors import ConfigError
from soarbench.config.compose import check_names, grid_config
from soarbench.config.composition import Composition
from soarbench.config.folders import options
from soarbench.config.grammar import choices_of
from soarbench.config.keys import SWEPT, Word, members, shown, split
from soarbench.config.overrides import Overrides
from soarbench.config.settings import GridConfig, VariantConfig
from soarbench.config.stages import THEN, stages

#: Methods of a grid, which figures can still draw unlike each other.
_MOST = 32
#: One value of every setting that has several.
Point = tuple[Word, ...]
Choices = Mapping[str, Sequence[Word]]


def swept_grid(overrides: Overrides) -> tuple[GridConfig, Overrides]:
    """The grid of a command line, in which settings may have several values.

    It is the grid at each point of their product, side by side, and what has none of the settings
    is in it once.

    Returns:
        The grid, its names looked up; and the command line without these settings, whose
        ``method=`` names variants.
    """
    grid, words = grid_config(overrides), {word.key: word for word in overrides.values}
    # Of two words of one key the last one counts; the first one's values are no choice.
    values = (one for one in overrides.values if one is words[one.key] or not _is_swept(one.key))
    overrides = replace(overrides, values=tuple(values))
    choices = {key: choices_of(word) for key, word in words.items() if _is_swept(key)}
    choices = {key: choice for key, choice in choices.items() if len(choice) > 1}
    if choices:
        chosen = overrides.axes.get("method", grid.methods)
        parts = _parts((*grid.methods, *chosen, grid.baseline), grid, overrides.without(choices))
        # A key that no method takes stays where it is, and is refused as any other.
        asked = [parts[part] for name in chosen for part in stages(name) if part in parts]
        choices = {
            key: choice
            for key, choice in choices.items()
            if any(_takes_one_value(composition, words[key]) for composition in asked)
        }
        grid, overrides = _swept(grid, overrides.without(choices), choices, parts)
    check_names(grid, overrides.folders)
    return grid, overrides


def _is_swept(key: str) -> bool:
    group, dot, _ = key.partition(".")
    return bool(dot) and group in SWEPT


def _parts(names: Sequence[str], grid: GridConfig, overrides: Overrides) -> dict[str, Composition]:
    """Every stage of some methods as the command line has it; not what does not exist."""
    known, parts = options("method", overrides.folders), {}
    for part in dict.fromkeys(part for name in names for part in stages(name)):
        origin = grid.variants[part].of if part in grid.variants else part
        if origin in known:
            parts[part] = overrides.composed(f"method={origin}")
            for word in overrides.values:
                parts[part].set(word)
    return parts


def _takes_one_value(composition: Composition, word: Word) -> bool:
    """Whether a composition has a key whose value is one: of several one is to be chosen.

    A list is one, where the values are no lists themselves, and so is a text, which holds commas.
    """
    hint = composition.hint(word.key)
    if hint is None:
        return False
    kinds = members(hint)
    is_list = any(typing.get_origin(kind) is tuple for kind in kinds)
    return word.text[:1] == "[" if is_list else not {str, Path}.intersection(kinds)


def _swept(
    grid: GridConfig, overrides: Overrides, choices: Choices, parts: Mapping[str, Composition]
) -> tuple[GridConfig, Overrides]:
    """As ``swept_grid``, once it is known which settings have several values."""
    points, variants = _points(choices), dict(grid.variants)
    names: dict[str, list[str]] = {}
    for part, composition in parts.items():
        fixed = {split(text).key for text in variants[part].settings} if part in variants else set()
        keys = [
            key
            for key, values in choices.items()
            if key not in fixed and _takes_one_value(composition, values[0])
        ]
        at = [tuple(word for word in point if word.key in keys) for point in points]
        names[part] = [_name(part, point, keys) for point in at]
        origin = grid.variants.get(part) or _plain_variant(part, composition)
        variants |= {
            name: _variant(origin, point, keys)
            for name, point in zip(names[part], at, strict=True)
            if keys
        }

    def at_points(name: str) -> list[str]:
        """What a method is at each point, without repetition; itself where nothing is known."""
        of_stages = [names.get(part, [part] * len(points)) for part in stages(name)]
        return list(dict.fromkeys(map(THEN.join, zip(*of_stages, strict=True))))

    methods = tuple(one for name in grid.methods for one in at_points(name))
    if len(methods) > _MOST:
        raise _too_many(len(methods), choices)
    axes = dict(overrides.axes)
    if "method" in axes:
        axes["method"] = tuple(one for name in axes["method"] for one in at_points(name))
    baseline = at_points(grid.baseline)[0]
    varied = replace(grid, methods=methods, variants=variants, baseline=baseline)
    return varied, replace(overrides, axes=axes)


def _points(choices: Choices) -> list[Point]:
    for key, values in choices.items():
        if len({word.text for word in values}) < len(values):
            given = ",".join(word.text for word in values)
            raise ConfigError(f"{shown(f'{key}={given}')}: name each value once")
    if (number := math.prod(map(len, choices.values()))) > _MOST:
        raise _too_many(number, choices)
    return list(itertools.product(*choices.values()))


def _too_many(number: int, choices: Choices) -> ConfigError:
    counts = " x ".join(f"{len(values)} of {key}" for key, values in choices.items())
    return ConfigError(
        f"{shown(counts)} values make {number} methods, and a grid has at most {_MOST}: give fewer "
        "values, or run them as several grids of other grid.name="
    )


def _plain_variant(name: str, composition: Composition) -> VariantConfig:
    # The base has no method, and no key of one.
    method = composition.section("method")
    title = method.title if isinstance(method, MethodConfig) else name
    return VariantConfig(of=name, title=title)


def _variant(origin: VariantConfig, point: Point, keys: Sequence[str]) -> VariantConfig:
    """A method or variant with the values of a point."""
    words = " ".join(f"{_short(word.key, keys)}={_plain(word)}" for word in point)
    settings = tuple(f"{word.key}={word.text}" for word in point)
    return replace(origin, title=f"{origin.title} {words}", settings=(*settings, *origin.settings))


def _name(part: str, point: Point, keys: Sequence[str]) -> str:
    """Of folders and runs: ``soar_aux_weight_0.5``."""
    values = [re.sub(r"[^\w.-]+", "_", _plain(word)).strip("_") for word in point]
    words = [f"{_short(word.key, keys)}_{text}" for word, text in zip(point, values, strict=True)]
    return "_".join([part, *words])


def _plain(word: Word) -> str:
    return word.text.lower() if word.text in ("True", "False") else word.text


def _short(key: str, keys: Collection[str]) -> str:
    """The last part of a key, as long as no other has the same."""
    lasts = [one.rpartition(".")[2] for one in keys]
    last = key.rpartition(".")[2]
    return last if lasts.count(last) == 1 else key
