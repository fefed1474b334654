"""Hydra: the YAML of all ``conf`` folders and the command line become ``Settings``.

Nothing else imports Hydra or OmegaConf.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import stat
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from soarbench.common.errors import ConfigError
from soarbench.common.plugins import OWN, ConfFolder, conf_folders
from soarbench.common.strict import TARGET, build, convert, did_you_mean
from soarbench.config.keys import UnknownKeyError, Word, hint_of, known_keys, members, split
from soarbench.config.settings import GridConfig, Settings
from soarbench.config.stages import stages

CONF = OWN
#: Groups that span the grid; everything else is the same for all cells that have the key.
AXES = ("method", "task")
#: A task chooses its suites and a model its judges, by names of their own: ``suites.NAME.KEY``.
_CHOSEN_BY_YAML = ("suite", "judge")
CONF_DIR = "conf_dir"
Folders = tuple[ConfFolder, ...]


def sources(group: str, folders: Folders | None = None) -> dict[str, str]:
    """Names of a group's YAML files, and whose each is; empty for the package's own."""
    named: dict[str, str] = {}
    for folder in conf_folders() if folders is None else folders:
        root = folder.path / group
        for path in sorted(root.rglob("*.yaml")):
            named.setdefault(str(path.relative_to(root).with_suffix("")), folder.source)
    return dict(sorted(named.items()))


def options(group: str, folders: Folders | None = None) -> list[str]:
    """Names of a group's YAML files."""
    return list(sources(group, folders))


def search_path(words: Iterable[str]) -> Folders:
    """The folders of YAML that a command line can choose from: ``conf_dir=DIR`` adds one.

    Raises:
        ConfigError: It names no folder, or a word is no ``key=value``.
    """
    parted = [split(word) for word in words]
    user_folders = [value_of(word, str) for word in parted if word.key == CONF_DIR]
    return conf_folders(str(folder) for folder in user_folders)


def require_option(group: str, name: str, folders: Folders) -> None:
    """Refuse what a group has no YAML of.

    Raises:
        ConfigError: Names the nearest, or all, and which package or folder they come from.
    """
    known = sources(group, folders)
    if name not in known:
        foreign = "".join(f"; {n} is of {source}" for n, source in known.items() if source)
        hint = did_you_mean(name, known)
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

    def text(self, key: str) -> str | None:
        """What is said of a key, as typed; None where nothing or null is."""
        texts = [word.text for word in self.values if word.key == key]
        return texts[-1] if texts and texts[-1] != "null" else None


def parse_overrides(words: Sequence[str]) -> Overrides:
    """Sort the settings of a command line.

    Raises:
        ConfigError: One cannot be parsed, or chooses what does not exist.
    """
    folders = search_path(words)
    chosen: dict[str, tuple[str, ...]] = {}
    values: list[Word] = []
    for word in map(split, words):
        if word.key == CONF_DIR:
            continue
        if word.key in _CHOSEN_BY_YAML or not any((f.path / word.key).is_dir() for f in folders):
            values.append(word)
            continue
        names = tuple(str(name) for name in _as_list(_in_grammar(word)))
        for name in names:
            for part in stages(name) if word.key == "method" else (name,):
                require_option(word.key, part, folders)
        if len(names) != 1 and word.key not in AXES:
            raise ConfigError(f"{word}: only method and task take several values")
        chosen[word.key] = names
    grid = chosen.pop("grid", (None,))[0]
    axes = {axis: chosen.pop(axis) for axis in AXES if axis in chosen}
    groups = tuple(f"{group}={name}" for group, (name,) in chosen.items())
    return Overrides(grid, axes, groups, tuple(values), folders)


def value_of(word: Word, hint: object) -> object:
    """A word's value as plain data, read as its type asks for.

    Text needs no quotes, whatever is in it, since paths and prompts hold what Hydra's grammar does
    not: ``~``, commas, equals signs, backslashes, letters beyond ASCII. Quotes are for a text that
    begins with one, or that says null. Anything else is written in Hydra's grammar, and a list
    needs no brackets: ``seeds=0,1``.

    Args:
        word: Of the command line.
        hint: Type of what the key holds.

    Raises:
        ConfigError: It cannot be read.
    """
    kinds = members(hint)
    if not word.text:
        raise ConfigError(f"{word.key}= is empty: give it a value; '' is an empty text")
    holds_list = any(typing.get_origin(kind) is tuple for kind in kinds)
    is_grouped = word.text[0] in "'\"" or (word.text[0] == "{" and len(kinds) > 1)
    if not holds_list and not is_grouped and any(map(_is_text, kinds)):
        return None if word.text == "null" else _usable_text(word)
    try:
        value = _in_grammar(word)
    except ConfigError:
        if hint is object:
            return _usable_text(word)
        raise
    if holds_list:
        return None if value is None else _as_list(value)
    if isinstance(value, ChoiceSweep):
        if hint is object:
            return _usable_text(word)
        raise ConfigError(f"{word}: only method and task take several values")
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{word}: must be a number")
    return value


def _is_text(kind: object) -> bool:
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return kind in (str, Path) or any(isinstance(choice, str) for choice in choices)


def _usable_text(word: Word) -> str:
    """Text that is no path to something that can only be read once, or never to its end.

    Raises:
        ConfigError: It is one.
    """
    path = os.path.expanduser(word.text)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        mode = stat.S_IFREG
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(f"{word}: is a pipe or a device; name a file or a folder")
    if path.startswith("~"):
        raise ConfigError(f"{word}: there is no such user; quote a text that begins with ~")
    return word.text


def _as_list(value: object) -> list[object]:
    """The choices of a sweep, the items of a list, or the one value."""
    items = value.list if isinstance(value, ChoiceSweep) else value
    return [getattr(i, "text", i) for i in items] if isinstance(items, list) else [items]


def _in_grammar(word: Word) -> object:
    """A value in Hydra's grammar."""
    try:
        override = OverridesParser.create().parse_override(f"x={word.text}")
        value: object = override.value()
    except HydraException as error:
        raise ConfigError(
            f"{str(word)!r} is not an override: write key=value, e.g. budget=quick or "
            f"seeds=[0,1,2], with quotes around what is no plain word ({_first_line(error)})"
        ) from error
    if override.is_sweep_override() and not isinstance(value, ChoiceSweep):
        raise ConfigError(f"{word}: only method and task take several values")
    return value


class Composition:
    """One composition of the YAML, unresolved: values can be set, others follow."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._config: DictConfig = OmegaConf.create(dict(values))

    def hint(self, key: str) -> object:
        """The type of a key's value; None where this composition has no such key."""
        return hint_of(Settings, OmegaConf.to_container(self._config), key)

    def known(self) -> list[str]:
        """All dotted keys, groups included."""
        return list(known_keys(Settings, OmegaConf.to_container(self._config)))

    def set(self, word: Word) -> bool:
        """Set a value; interpolations that use it follow. -> Whether there is such a key.

        Raises:
            ConfigError: The value cannot be read.
        """
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
        try:
            self._detach(word.key)
            OmegaConf.update(self._config, word.key, value, merge=False, force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{word}: {_first_line(error)}") from error
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
        """One part of ``Settings``; the others, data above all, may be incomplete.

        Raises:
            ConfigError: A value cannot work.
        """
        return convert(typing.get_type_hints(Settings)[key], self.plain(key), key)

    def plain(self, key: str) -> object:
        """A value, resolved; None where nothing or null is.

        Raises:
            ConfigError: It refers to what is not there.
        """
        try:
            node = OmegaConf.select(self._config, key)
            return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        except OmegaConfBaseException as error:
            raise ConfigError(_first_line(error)) from error

    def settings(self) -> Settings:
        """Everything, resolved and checked.

        Raises:
            ConfigError: An unknown or missing key, a wrong type, or an unknown interpolation.
        """
        try:
            values = OmegaConf.to_container(self._config, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise ConfigError(_first_line(error)) from error
        assert isinstance(values, dict)
        return build(Settings, {str(key): value for key, value in values.items()}, "")


def compose_choices(choices: Sequence[str], folders: Folders | None = None) -> Composition:
    """Compose group choices: ``task=aesthetic``.

    Raises:
        ConfigError: Hydra refuses.
    """
    return Composition(_composed(tuple(choices), conf_folders() if folders is None else folders))


@functools.cache
def _composed(choices: tuple[str, ...], folders: Folders) -> Mapping[str, object]:
    """What Hydra makes of group choices, unresolved; the YAML is read once a process."""
    with _initialised(folders) as search_path_override:
        try:
            protocol = _protocol(choices, folders)
            config = compose("config", overrides=[*choices, *protocol, search_path_override])
        except HydraException as error:
            raise ConfigError(_first_line(error)) from error
    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    # A model replaces some judges by its own; a suite may name any other.
    values["judge"] = {**registered("judge", folders), **(values.get("judge") or {})}
    return {str(key): value for key, value in values.items()}


def _protocol(choices: Iterable[str], folders: Folders) -> list[str]:
    """What stands in for the protocol that a model does not have of a task."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(config, dict)
    chosen: dict[str, str] = {}
    for entry in config["defaults"]:
        chosen |= entry if isinstance(entry, dict) else {}
    chosen |= dict(choice.split("=", 1) for choice in choices)
    has_own = f"{chosen['model']}/{chosen['task']}" in sources("protocol", folders)
    return [] if has_own else ["protocol=none"]


@functools.cache
def registered(group: str, folders: Folders) -> Mapping[str, Mapping[str, object]]:
    """Every configuration of a group by its name, unresolved."""
    every = [f"+{group}@{group}.{name}={name}" for name in options(group, folders)]
    with _initialised(folders) as search_path_override:
        try:
            config = OmegaConf.to_container(compose(overrides=[*every, search_path_override]))
        except HydraException as error:
            raise ConfigError(_first_line(error)) from error
    assert isinstance(config, dict)
    values: Mapping[str, Mapping[str, object]] = config.get(group, {})
    return values


@contextlib.contextmanager
def _initialised(folders: Folders) -> Iterator[str]:
    """Hydra with all folders; the override that names those beside the first."""
    paths = ",".join(f"'file://{folder.path}'" for folder in folders[1:])
    with initialize_config_dir(str(folders[0].path), version_base="1.3"):
        yield f"hydra.searchpath=[{paths}]"


def compose_pairs(
    pairs: Iterable[tuple[str, str]], overrides: Overrides
) -> dict[tuple[str, str], Composition]:
    """Compose (method, task) pairs; a value applies to all that have its key.

    Raises:
        ConfigError: Hydra refuses, or no composition has a key.
    """
    choices = (f"grid={overrides.grid}", *overrides.groups)
    composed = {
        (method, task): compose_choices(
            [*choices, f"method={method}", f"task={task}"], overrides.folders
        )
        for method, task in pairs
    }
    apply(overrides.values, composed.values())
    for (_, task), composition in composed.items():
        if not composition.plain("suites"):
            raise ConfigError(
                f"task={task}: nothing says what it is trained on and judged by with "
                f"model={composition.plain('model.name')}; write protocol/MODEL/{task}.yaml"
            )
    return composed


def apply(values: Iterable[Word], compositions: Collection[Composition]) -> None:
    """Set values in all compositions that have their keys.

    Raises:
        UnknownKeyError: None has one.
        ConfigError: A value cannot be read.
    """
    for word in values:
        if any([composition.set(word) for composition in compositions]):
            continue
        known = {key for composition in compositions for key in composition.known()}
        group = word.key.rpartition(".")[0]
        is_null = group in known and all(
            composition.plain(group) is None for composition in compositions
        )
        note = f"{group} is null, give the group: {group}={{...}}" if is_null else ""
        raise UnknownKeyError(word, known, note)


def grid_config(overrides: Overrides) -> GridConfig:
    """The grid that a command line names, with its own values.

    Raises:
        ConfigError: None is named, or it names methods or tasks that do not exist.
    """
    if overrides.grid is None:
        raise ConfigError(f"name a grid. {_listed_grids(overrides.folders)}")
    composition = compose_choices([f"grid={overrides.grid}"], overrides.folders)
    for word in overrides.values:
        if word.key.startswith("grid."):
            composition.set(word)
    grid = composition.section("grid")
    assert isinstance(grid, GridConfig)
    for axis, names in (("method", grid.methods), ("task", grid.tasks)):
        known = options(axis, overrides.folders)
        for name in names:
            parts = stages(name) if axis == "method" else (name,)
            if not set(parts) <= set(known):
                hint = did_you_mean(name, known)
                raise ConfigError(f"grid.{axis}s: {name!r} does not exist: {hint}")
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"grid.{axis}s={list(names)}: name each once, and at least one")
    return grid


def _listed_grids(folders: Folders) -> str:
    described = []
    for name, source in sources("grid", folders).items():
        (path, *_) = [p for f in folders if (p := f.path / f"grid/{name}.yaml").is_file()]
        text = OmegaConf.select(OmegaConf.load(path), "description")
        described.append(f"grid={name}: {text}" + (f" (of {source})" if source else ""))
    return "; ".join(described)


def run_settings(words: Sequence[str], only: Collection[str] | None = None) -> Settings:
    """Settings of a command that needs no grid: folders, tracking, model, device.

    Args:
        words: Of the command line.
        only: First parts of the keys that are looked at; None looks at all.

    Raises:
        ConfigError: Something in the configuration cannot work.
    """
    if only is not None:
        kept = {*only, CONF_DIR}
        words = [word for word in words if split(word).key.partition(".")[0] in kept]
    overrides = parse_overrides(words)
    grid = overrides.grid or options("grid")[0]
    composition = compose_choices([f"grid={grid}", *overrides.groups], overrides.folders)
    apply(overrides.values, [composition])
    return composition.settings()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
