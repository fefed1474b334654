"""Hydra: the YAML of all ``conf`` folders and the command line become ``Settings``.

What cannot be composed is a ``ConfigError``, in one line.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import stat
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from baselines.config import MethodConfig, TrainingConfig
from soarbench.common.errors import ConfigError
from soarbench.common.plugins import OWN, ConfFolder, conf_folders
from soarbench.common.strict import TARGET, build, convert, did_you_mean, typed_fields
from soarbench.config.keys import UnknownKeyError, Word, hint_of, known_keys, members, split
from soarbench.config.settings import GridConfig, Settings, VariantConfig
from soarbench.config.stages import BASE, stages

#: Groups that span the grid; everything else is the same for all cells that have the key.
AXES = ("method", "task")
#: Groups that are a method's own; several values in them are variants of it.
SWEPT = ("method", "optim", "lora", "ema", "training")
#: A task chooses its suites and a model its judges, by names of their own: ``suites.NAME.KEY``.
_CHOSEN_BY_YAML = ("suite", "judge")
CONF_DIR = "conf_dir"
Folders = tuple[ConfFolder, ...]
Variants = Mapping[str, VariantConfig]
NO_VARIANTS: Variants = {}


def sources(group: str, folders: Folders | None = None) -> dict[str, str]:
    """Names of a group's YAML files, and whose each is; empty for the package's own."""
    named: dict[str, str] = {}
    for folder in conf_folders() if folders is None else folders:
        root = folder.path / group
        for path in root.rglob("*.yaml"):
            # The first folder wins, as in Hydra: nobody changes a published protocol by accident.
            named.setdefault(str(path.relative_to(root).with_suffix("")), folder.source)
    return dict(sorted(named.items()))


def options(group: str, folders: Folders | None = None) -> list[str]:
    """Names of a group's YAML files."""
    return list(sources(group, folders))


def search_path(words: Iterable[str]) -> Folders:
    """The folders of YAML that a command line can choose from: ``conf_dir=DIR`` adds one."""
    parted = map(split, words)
    return conf_folders(str(value_of(word, str)) for word in parted if word.key == CONF_DIR)


def require_option(group: str, name: str, folders: Folders) -> None:
    """``ConfigError`` where a group has no such YAML; says which foreign ones there are."""
    known = sources(group, folders)
    if name not in known:
        hint = did_you_mean(name, known)
        # Of a list of all names the origin of some is one thing too many.
        meant = {n: source for n, source in known.items() if source and repr(n) in hint}
        foreign = "".join(f"; {n} is of {source}" for n, source in meant.items())
        raise ConfigError(f"{group}={name!r} does not exist: {hint}{foreign}")


@dataclass(frozen=True)
class Overrides:
    """What the command line says, sorted.

    Attributes:
        grid: The grid's name, if one is given.
        axes: For ``method`` and ``task``: the ones to keep; absent keeps all of the grid.
        groups: Choices of other groups: ``budget=standard``.
        values: Single values: ``method.aux_weight=0.5``.
        folders: Where YAML is looked for.
    """

    grid: str | None
    axes: Mapping[str, tuple[str, ...]]
    groups: tuple[str, ...]
    values: tuple[Word, ...]
    folders: Folders

    def without(self, keys: Collection[str]) -> Overrides:
        """The same without what is said of some keys."""
        return replace(self, values=tuple(one for one in self.values if one.key not in keys))

    def text(self, key: str) -> str | None:
        """What is said of a key, as typed; None where nothing or null is."""
        texts = [word.text for word in self.values if word.key == key]
        return texts[-1] if texts and texts[-1] != "null" else None

    def composed(self, *more: str) -> Composition:
        """The groups that are chosen, and more; no value is set yet."""
        grid = [] if self.grid is None else [f"grid={self.grid}"]
        return compose_choices([*grid, *self.groups, *more], self.folders)


def parse_overrides(words: Sequence[str]) -> Overrides:
    """Sort the settings of a command line."""
    folders = search_path(words)
    chosen: dict[str, tuple[str, ...]] = {}
    values: list[Word] = []
    for word in map(split, words):
        if word.key == CONF_DIR:
            continue
        # What is no folder of YAML may still be a key: whether it is one, compositions know.
        if word.key in _CHOSEN_BY_YAML or not any((f.path / word.key).is_dir() for f in folders):
            values.append(word)
            continue
        names = tuple(str(name) for name in _as_list(_in_grammar(word, takes_several=True)))
        for name in names:
            for part in stages(name) if word.key == "method" else (name,):
                if word.key != "method" or part not in _every_variant(folders):
                    require_option(word.key, part, folders)
        if len(names) != 1 and word.key not in AXES:
            raise _only_axes_take_several(word)
        chosen[word.key] = names
    # Of two choices of one group the last one counts, as of two values.
    grid = chosen.pop("grid", (None,))[0]
    axes = {axis: chosen.pop(axis) for axis in AXES if axis in chosen}
    groups = tuple(f"{group}={name}" for group, (name,) in chosen.items())
    return Overrides(grid, axes, groups, tuple(values), folders)


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
        value = _in_grammar(word, takes_several=holds_list)
    except ConfigError:
        if hint is not object:
            raise
        return _usable_text(word)
    if holds_list and value is not None:
        return _as_list(value)
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


def _as_list(value: object) -> list[object]:
    """The choices of a sweep, the items of a list, or the one value."""
    items = value.list if isinstance(value, ChoiceSweep) else value
    return [getattr(i, "text", i) for i in items] if isinstance(items, list) else [items]


def _in_grammar(word: Word, *, takes_several: bool) -> object:
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
        raise _only_axes_take_several(word)
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


def takes_one_value(composition: Composition, word: Word) -> bool:
    """Whether a composition has a key whose value is one: of several one is to be chosen.

    A list is one, where the values are no lists themselves, and so is a text, which holds commas.
    """
    hint = composition.hint(word.key)
    if hint is None:
        return False
    kinds = members(hint)
    is_list = any(typing.get_origin(kind) is tuple for kind in kinds)
    return word.text[:1] == "[" if is_list else not {str, Path}.intersection(kinds)


def _only_axes_take_several(word: Word) -> ConfigError:
    return ConfigError(
        f"{word}: only method, task and a method's settings ({', '.join(SWEPT)}) take several "
        "values"
    )


class Composition:
    """One composition of the YAML, unresolved: values can be set, others follow."""

    def __init__(self, config: DictConfig) -> None:
        self._config = config

    def hint(self, key: str) -> object:
        """The type of a key's value; None where this composition has no such key."""
        # Not of everything, which takes many times as long: no other group has a say.
        return hint_of(Settings, self._group(key.partition(".")[0]), key)

    def _group(self, name: str) -> object:
        """A mapping that holds one group or value alone, unresolved."""
        for _, node in self._config.items_ex(resolve=False, keys=[name]):
            if OmegaConf.is_config(node):
                return {name: OmegaConf.to_container(node)}
        return OmegaConf.to_container(OmegaConf.masked_copy(self._config, name))

    def known(self) -> list[str]:
        """All dotted keys, groups included."""
        return list(known_keys(Settings, OmegaConf.to_container(self._config)))

    def set(self, word: Word) -> bool:
        """Set a value; interpolations that use it follow. -> Whether there is such a key."""
        if word.key == f"method.{TARGET}":
            # Results carry the method's name, and must not be another method's.
            raise ConfigError(
                f"{word}: a method's class goes by its name: method=NAME, or a YAML file of your "
                f"own in conf_dir=DIR/method"
            )
        hint = self.hint(word.key)
        if hint is None:
            return False
        value = value_of(word, hint)
        with _in_one_line(f"{word}: "):
            self._detach(word.key)
            # Not merged: a mapping that is given is the whole of it, thresholds={a: 1} say.
            OmegaConf.update(self._config, word.key, value, merge=False, force_add=True)
        return True

    def _detach(self, key: str) -> None:
        """Groups on the way to a key that are another's become their own before one differs."""
        node: object = self._config
        for part in key.split(".")[:-1]:
            if not isinstance(node, DictConfig) or part not in node:
                return
            if OmegaConf.is_interpolation(node, part):
                node[part] = OmegaConf.to_container(node[part], resolve=True)
            node = node[part]

    def section(self, key: str) -> object:
        """One part of ``Settings``, checked; the others, data above all, may be incomplete."""
        return convert(typed_fields(Settings)[key][0], self.plain(key), key)

    def plain(self, key: str) -> object:
        """A value, resolved; None where nothing or null is."""
        with _in_one_line():
            node = OmegaConf.select(self._config, key)
            return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node

    def settings(self) -> Settings:
        """Everything, resolved and checked."""
        with _in_one_line():
            values = OmegaConf.to_container(self._config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        return build(Settings, {str(key): value for key, value in values.items()}, "")


@contextlib.contextmanager
def _in_one_line(where: str = "") -> Iterator[None]:
    """What Hydra or OmegaConf refuse, as a ``ConfigError``; theirs go on for several lines."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}{_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _by_hydra(root: str | None, choices: Sequence[str], folders: Folders) -> dict[str, object]:
    """What Hydra makes of a root file and group choices, unresolved."""
    first, *others = (str(folder.path) for folder in folders)
    paths = ",".join(f"'file://{path}'" for path in others)
    with initialize_config_dir(first, version_base="1.3"), _in_one_line():
        config = compose(root, overrides=[*choices, f"hydra.searchpath=[{paths}]"])
    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@functools.cache
def _defaults(folder: Path) -> Mapping[str, str]:
    """The choice of each group where the command line makes none."""
    entries = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(entries, dict)
    groups = [entry for entry in entries["defaults"] if isinstance(entry, dict)]
    return {group: name for entry in groups for group, name in entry.items()}


def compose_choices(choices: Sequence[str], folders: Folders | None = None) -> Composition:
    """Compose group choices (``task=aesthetic``)."""
    folders = conf_folders() if folders is None else folders
    # A copy, since values will be set in it: half as long as to create it again.
    return Composition(copy.deepcopy(_composed(tuple(choices), folders)))


@functools.cache
def _composed(choices: tuple[str, ...], folders: Folders) -> DictConfig:
    chosen = {**_defaults(OWN), **dict(choice.split("=", 1) for choice in choices)}
    # Not every model has a protocol of every task, and what trains nothing needs none.
    if f"{chosen['model']}/{chosen['task']}" not in sources("protocol", folders):
        choices = (*choices, "protocol=none")
    values = _by_hydra("config", choices, folders)
    # A model replaces some judges by its own; a suite may name any other.
    judges = values.get("judge") or {}
    assert isinstance(judges, dict)
    config = OmegaConf.create(values | {"judge": {**registered("judge", folders), **judges}})
    assert isinstance(config, DictConfig)
    return config


@functools.cache
def registered(group: str, folders: Folders) -> Mapping[str, Mapping[str, object]]:
    """Every configuration of a group by its name, unresolved."""
    every = [f"+{group}@{group}.{name}={name}" for name in options(group, folders)]
    return typing.cast(
        Mapping[str, Mapping[str, object]], _by_hydra(None, every, folders).get(group, {})
    )


def _every_variant(folders: Folders) -> set[str]:
    """Names of the variants of all grids."""
    grids = registered("grid", folders).values()
    return {str(name) for grid in grids for name in typing.cast(Variants, grid.get("variants", {}))}


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
    cost = others_training.steps * others_training.update_cost(others_method)
    unit = method.updates_per_collection
    collections = max(1, round(cost / training.update_cost(method) / unit))
    composition.set(Word("training.steps", str(collections * unit)))


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
        is_null = group in known and all(one.plain(group) is None for one in compositions)
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
    # Else the words of the run would have to be taken apart, of which some have several values.
    own = [word for word in words if split(word).key.partition(".")[0] not in SWEPT]
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
