"""What Hydra composes of the YAML of all ``conf`` folders."""

from __future__ import annotations

import contextlib
import functools
import pickle
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from soarbench.common.errors import ConfigError
from soarbench.common.plugins import OWN, conf_folders
from soarbench.common.strict import TARGET, build, convert, typed_fields
from soarbench.config.folders import Folders, options, sources
from soarbench.config.grammar import in_one_line, value_of
from soarbench.config.keys import Word, hint_of, known_keys, nearest
from soarbench.config.settings import Settings, VariantConfig

Variants = Mapping[str, VariantConfig]


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
        with in_one_line(f"{word}: "):
            self._detach(word)
            # Not merged: a mapping that is given is the whole of it, thresholds={a: 1} say.
            OmegaConf.update(self._config, word.key, value, merge=False, force_add=True)
        return True

    def _detach(self, word: Word) -> None:
        """Groups on the way to a key that are another's become their own before one differs."""
        node: object = self._config
        *groups, name = word.key.split(".")
        for depth, part in enumerate(groups, start=1):
            if not isinstance(node, DictConfig) or part not in node:
                return
            value = node[part]
            if not OmegaConf.is_config(value):
                key = ".".join(groups[:depth])
                whole = f"{key}={{{name}: {word.text}}}"
                held = "null" if value is None else repr(value)
                raise ConfigError(f"{word}: {key} is {held}, give the group: {whole}")
            if OmegaConf.is_interpolation(node, part):
                node[part] = OmegaConf.to_container(value, resolve=True)
            node = node[part]

    def section(self, key: str) -> object:
        """One part of ``Settings``, checked; the others, data above all, may be incomplete."""
        return convert(typed_fields(Settings)[key][0], self.plain(key), key)

    def plain(self, key: str) -> object:
        """A value, resolved; None where nothing or null is."""
        with in_one_line(), self._resolving():
            node = OmegaConf.select(self._config, key)
            return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node

    def settings(self) -> Settings:
        """Everything, resolved and checked."""
        with in_one_line(), self._resolving():
            values = OmegaConf.to_container(self._config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        return build(Settings, {str(key): value for key, value in values.items()}, "")

    @contextlib.contextmanager
    def _resolving(self) -> Iterator[None]:
        """What refers to a key that is not there, as a ``ConfigError`` that names both."""
        try:
            yield
        except InterpolationKeyError as error:
            absent = re.search("'(.*)'", str(error))
            if absent is None or not error.full_key:
                raise
            raise ConfigError(f"{error.full_key}: {self._absent(absent[1])}") from error

    def _absent(self, key: str) -> str:
        known = self.known()
        if key.partition(".")[0] not in known or self.hint(key) is None:
            return f"${{{key}}} refers to no key; {nearest(key, known)}"
        names = {group: self.plain(f"{group}.name") for group in ("budget", "model", "task")}
        chosen = ", ".join(f"{group}={name}" for group, name in names.items())
        return (
            f"nothing states {key} with {chosen}; give it ({key}=VALUE), or choose another of "
            "these, budget=standard say"
        )


def _by_hydra(root: str | None, choices: Sequence[str], folders: Folders) -> dict[str, object]:
    """What Hydra makes of a root file and group choices, unresolved."""
    first, *others = (str(folder.path) for folder in folders)
    paths = ",".join(f"'file://{path}'" for path in others)
    with initialize_config_dir(first, version_base="1.3"), in_one_line():
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
    # A copy, since values will be set in it; ten times as quick as ``copy.deepcopy``.
    return Composition(pickle.loads(_composed(tuple(choices), folders)))  # noqa: S301 (our own)


@functools.cache
def _composed(choices: tuple[str, ...], folders: Folders) -> bytes:
    """A pickled ``DictConfig``."""
    chosen = {**_defaults(OWN), **dict(choice.split("=", 1) for choice in choices)}
    # Not every model has a protocol of every task, and what trains nothing needs none.
    if f"{chosen['model']}/{chosen['task']}" not in sources("protocol", folders):
        choices = (*choices, "protocol=none")
    values = _by_hydra("config", choices, folders)
    # A model replaces some judges by its own; a suite may name any other.
    judges = values.get("judge") or {}
    assert isinstance(judges, dict)
    config = OmegaConf.create(values | {"judge": {**registered("judge", folders), **judges}})
    return pickle.dumps(config)


@functools.cache
def registered(group: str, folders: Folders) -> Mapping[str, Mapping[str, object]]:
    """Every configuration of a group by its name, unresolved."""
    every = [f"+{group}@{group}.{name}={name}" for name in options(group, folders)]
    return typing.cast(
        Mapping[str, Mapping[str, object]], _by_hydra(None, every, folders).get(group, {})
    )


def variant_names(folders: Folders) -> set[str]:
    """Names of the variants of all grids."""
    grids = registered("grid", folders).values()
    return {str(name) for grid in grids for name in typing.cast(Variants, grid.get("variants", {}))}
