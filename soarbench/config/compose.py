"""Hydra: the YAML of all ``conf`` folders and the command line become ``Settings``.

What cannot be composed is a ``ConfigError``, in one line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction

from baselines.config import EmaConfig, MethodConfig, TrainingConfig, cost_unit
from soarbench.common.errors import ConfigError
from soarbench.common.strict import did_you_mean
from soarbench.config.composition import Composition, Variants
from soarbench.config.folders import CONF_DIR, Folders, options, require_option, search_path
from soarbench.config.keys import SWEPT, UnknownKeyError, Word, is_group, split
from soarbench.config.overrides import Overrides, parse_overrides
from soarbench.config.settings import GridConfig, Settings, VariantConfig
from soarbench.config.stages import BASE, stages

NO_VARIANTS: Variants = {}


def compose_methods(
    pairs: Iterable[tuple[str, str]], overrides: Overrides, variants: Variants
) -> dict[tuple[str, str], Composition]:
    """Compose (method, task) pairs; a value applies to all that have its key.

    With what the variants among them refer to, which are pairs of their own.
    """
    needed = dict.fromkeys(pairs)
    for method, task in [pair for pair in needed if pair[0] in variants]:
        others = (variants[method].of, variants[method].cost_of)
        needed |= dict.fromkeys((other, task) for other in others if other)
    composed = {}
    for method, task in needed:
        origin = variants[method].of if method in variants else method
        require_option("method", origin, overrides.folders)
        composed[method, task] = overrides.composed(f"method={origin}", f"task={task}")
    apply(overrides.values, composed.values())
    # After the command line: a value that went to all would undo what makes a variant.
    varied = [pair for pair in composed if pair[0] in variants]
    for method, task in varied:
        _vary(composed[method, task], variants[method], f"grid.variants.{method}")
    for method, task in varied:
        if other := variants[method].cost_of:
            _spend(composed[method, task], composed[other, task])
    return composed


def _vary(composition: Composition, variant: VariantConfig, where: str) -> None:
    """Apply a variant's settings, and its factors to what they leave."""
    for word in map(split, variant.settings):
        _set_of_variant(composition, word, where)
    for word in map(split, variant.factors):
        value = composition.plain(word.key)
        try:
            factor = Fraction(word.text)
        except (ValueError, ZeroDivisionError):
            raise ConfigError(f"{where}.factors: {word}: is no factor, write 3 or 1/3") from None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ConfigError(
                f"{where}.factors: {word.key}={value!r} is no number of the recipe; give a value "
                "in settings"
            )
        # Twelve digits: three times a third is then the same setting.
        product = Word(word.key, f"{value * float(factor):.12g}")
        _set_of_variant(composition, product, where)


def _set_of_variant(composition: Composition, word: Word, where: str) -> None:
    if not composition.set(word):
        raise ConfigError(f"{where}: {UnknownKeyError(word, composition.known())}")


def _spend(composition: Composition, other: Composition) -> None:
    """Train for as many forward equivalents as another does, to the nearest step."""
    method, training = _trained(composition)
    others_method, others_training = _trained(other)
    cost = others_training.steps * update_cost(others_training, others_method)
    ema = composition.section("ema")
    assert ema is None or isinstance(ema, EmaConfig)
    unit = cost_unit(method, ema)
    units = max(1, round(cost / update_cost(training, method) / unit))
    composition.set(Word("training.steps", str(units * unit)))


def update_cost(training: TrainingConfig, method: MethodConfig) -> float:
    """Forward equivalents of an update; ``ConfigError`` where the method states none."""
    try:
        return training.update_cost(method)
    except ValueError as error:
        raise ConfigError(f"method={method.kind}: {error}") from error


def _trained(composition: Composition) -> tuple[MethodConfig, TrainingConfig]:
    method, training = composition.section("method"), composition.section("training")
    assert isinstance(method, MethodConfig)
    assert isinstance(training, TrainingConfig)
    return method, training


def compose_pairs(
    pairs: Iterable[tuple[str, str]], overrides: Overrides, variants: Variants = NO_VARIANTS
) -> dict[tuple[str, str], Composition]:
    """As ``compose_methods``; each task has to say what it is judged by."""
    composed = compose_methods(pairs, overrides, variants)
    for (_, task), composition in composed.items():
        if not composition.plain("suites"):
            raise ConfigError(
                f"task={task}: nothing says what it is trained on and judged by with "
                f"model={composition.plain('model.name')}; write protocol/MODEL/{task}.yaml"
            )
    return composed


def apply(values: Iterable[Word], compositions: Collection[Composition]) -> None:
    """Set values in all compositions that have their keys; ``UnknownKeyError`` where none has."""
    for word in values:
        # A list, since every composition is to be set and not the first alone.
        if any([composition.set(word) for composition in compositions]):
            continue
        known = {key for composition in compositions for key in composition.known()}
        group = word.key.rpartition(".")[0]
        is_null = group in known and all(
            is_group(one.hint(group)) and one.plain(group) is None for one in compositions
        )
        note = f"{group} is null, give the group: {group}={{...}}" if is_null else ""
        raise UnknownKeyError(word, known, note)


def grid_config(overrides: Overrides) -> GridConfig:
    """The grid that a command line names, with its own values; its names are not looked up."""
    if overrides.grid is None:
        grids = ", ".join(options("grid", overrides.folders))
        raise ConfigError(f"name a grid: grid=NAME, one of {grids}; 'ls grids' explains them")
    composition = overrides.composed()
    for word in overrides.values:
        if word.key.startswith("grid."):
            composition.set(word)
    grid = composition.section("grid")
    assert isinstance(grid, GridConfig)
    return grid


def check_names(grid: GridConfig, folders: Folders) -> None:
    """``ConfigError`` where a grid names what does not exist, or twice."""
    methods = options("method", folders)
    _check_variants(grid.variants, methods)
    methods = [*methods, *grid.variants]
    for axis, names in (("method", grid.methods), ("task", grid.tasks)):
        known = methods if axis == "method" else options(axis, folders)
        for name in names:
            parts = stages(name) if axis == "method" else (name,)
            if not set(parts) <= set(known):
                hint = did_you_mean(name, known)
                raise ConfigError(f"grid.{axis}s: {name!r} does not exist: {hint}")
            if len(parts) > 1 and any(part in grid.untrained for part in parts):
                raise ConfigError(f"grid.{axis}s: {name!r}: what is not trained is no stage")
        # Twice the same cell would be a table with two rows of one measurement.
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"grid.{axis}s={list(names)}: name each once, and at least one")
    if not set(stages(grid.baseline)) <= set(methods):
        hint = did_you_mean(grid.baseline, methods)
        raise ConfigError(f"grid.baseline: {grid.baseline!r} does not exist: {hint}")


def _check_variants(variants: Variants, methods: Collection[str]) -> None:
    """Refuse a variant of nothing, or one with the name of a method."""
    trained = sorted(set(methods) - {BASE})
    # What takes another's cost has none to give, or two could wait for each other.
    priced = [*trained, *(n for n, one in variants.items() if not (one.cost_of or one.of == BASE))]
    for name, one in variants.items():
        where = f"grid.variants.{name}"
        if name in methods:
            raise ConfigError(f"{where}: a method has that name; call the variant something else")
        if one.of not in (*trained, BASE):
            raise ConfigError(f"{where}.of={one.of!r}: {did_you_mean(one.of, [*trained, BASE])}")
        if one.of == BASE and (one.factors or one.cost_of):
            raise ConfigError(f"{where}: {BASE} is not trained; only settings can vary it")
        if one.of == BASE and not one.settings:
            raise ConfigError(f"{where}: without settings it is the {BASE} itself; give some")
        if one.cost_of and one.cost_of not in priced:
            hint = did_you_mean(one.cost_of, priced)
            raise ConfigError(f"{where}.cost_of={one.cost_of!r} has no cost of its own: {hint}")


def folder_settings(words: Sequence[str]) -> Settings:
    """As ``run_settings``, of a command about a folder: how it was trained may be said, too."""
    known = options("grid", search_path(words))

    def is_composed(word: Word) -> bool:
        # A folder's grid may have a name of its own (grid.name), or YAML that is not here.
        if word.key == "grid":
            return word.text in known
        # Else the words of the run would have to be taken apart, of which some have several values.
        return word.key.partition(".")[0] not in SWEPT

    own = [text for text, word in zip(words, map(split, words), strict=True) if is_composed(word)]
    return run_settings(own)


def run_settings(words: Sequence[str], only: Collection[str] | None = None) -> Settings:
    """Settings of a command that needs no grid: folders, tracking, model, device.

    Args:
        words: Of the command line.
        only: First parts of the keys that are looked at; None looks at all.
    """
    # ``report`` and ``compare`` look for a folder with this, before they know whether it is a run's
    # or an export's, which takes other words.
    if only is not None:
        kept = {*only, CONF_DIR}
        words = [word for word in words if split(word).key.partition(".")[0] in kept]
    overrides = parse_overrides(words)
    composition = overrides.composed()
    apply(overrides.values, [composition])
    return composition.settings()
