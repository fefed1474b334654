"""Hydra: the YAML under ``conf/`` and the command line become ``Settings``."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from soarbench.common.errors import ConfigError
from soarbench.common.strict import build, did_you_mean
from soarbench.config.settings import Settings
from soarbench.config.stages import stages

CONF = Path(__file__).parents[1] / "conf"
#: Groups that span the grid; everything else is the same for all cells that have the key.
AXES = ("method", "task")


def options(group: str) -> list[str]:
    """Names of a group's YAML files."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def grid_descriptions() -> dict[str, str]:
    """One line for every grid there is."""
    return {
        name: OmegaConf.load(CONF / f"grid/{name}.yaml").description for name in options("grid")
    }


@dataclass(frozen=True)
class Overrides:
    """What the command line says, sorted.

    Attributes:
        grid: The grid's name, if one is given.
        axes: For ``method`` and ``task``: the ones to keep; absent keeps all of the grid.
        groups: Choices of other groups (``budget=standard``), as typed.
        values: Single values (``method.aux_weight=0.5``).
    """

    grid: str | None
    axes: Mapping[str, tuple[str, ...]]
    groups: tuple[str, ...]
    values: tuple[Override, ...]


def parse_overrides(arguments: Sequence[str]) -> Overrides:
    """Sort the overrides of a command line, written in Hydra's grammar.

    Raises:
        ConfigError: One cannot be parsed, or chooses what does not exist.
    """
    grid: str | None = None
    axes: dict[str, tuple[str, ...]] = {}
    groups: list[str] = []
    values: list[Override] = []
    for argument in arguments:
        override = _parse(argument)
        key = str(override.key_or_group)
        if override.is_delete() or override.is_add() or override.is_force_add():
            raise ConfigError(f"{argument}: keys cannot be added or removed; write {key}=VALUE")
        # A task chooses its suites by names of its own, and a suite its judges.
        if not (CONF / key).is_dir() or key in ("suite", "judge"):
            if override.is_sweep_override():
                raise ConfigError(f"{argument}: only method and task take several values")
            values.append(override)
            continue
        chosen = tuple(_choices(override))
        for name in chosen:
            parts = stages(name) if key == "method" else (name,)
            if not set(parts) <= set(options(key)):
                hint = did_you_mean(name, options(key))
                raise ConfigError(f"{key}={name!r} does not exist: {hint}")
        if key in AXES:
            axes[key] = chosen
        elif len(chosen) != 1:
            raise ConfigError(f"{argument}: only method and task take several values")
        elif key == "grid":
            grid = chosen[0]
        else:
            groups.append(argument)
    return Overrides(grid, axes, tuple(groups), tuple(values))


def _parse(argument: str) -> Override:
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except HydraException as error:
        raise ConfigError(
            f"{argument!r} is not an override: write key=value, e.g. budget=quick or seeds=[0,1,2] "
            f"({_first_line(error)})"
        ) from error
    if str(override.key_or_group).startswith("evaluators."):
        key, _, value = argument.partition("=")
        raise ConfigError(f"{argument}: say judge.{key.partition('.')[2]}={value}")
    return override


def _choices(override: Override) -> Iterator[str]:
    """The names that a group override chooses."""
    value = override.value()
    several = getattr(value, "list", value)  # a sweep keeps its choices in ``list``
    for choice in several if isinstance(several, list) else [several]:
        yield str(getattr(choice, "text", choice))


def compose_choices(choices: Sequence[str]) -> DictConfig:
    """Compose group choices (``task=aesthetic``) into one unresolved configuration.

    Raises:
        ConfigError: Hydra refuses.
    """
    return _settable(_composed(tuple(choices)))


def _settable(values: Mapping[str, object]) -> DictConfig:
    """A configuration whose values can be set, but which takes no new keys."""
    config = OmegaConf.create(dict(values))
    OmegaConf.set_struct(config, True)
    return config


@functools.cache
def _composed(choices: tuple[str, ...]) -> Mapping[str, object]:
    """What Hydra makes of group choices, unresolved; the YAML is read once a process."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = OmegaConf.to_container(compose("config", overrides=list(choices)))
        except HydraException as error:
            raise ConfigError(_first_line(error)) from error
    assert isinstance(config, dict)
    # A model replaces some judges by its own; a suite may name any other.
    config["judge"] = {**registered("judge"), **(config.get("judge") or {})}
    return {str(key): value for key, value in config.items()}


@functools.cache
def registered(group: str) -> Mapping[str, Mapping[str, object]]:
    """Every configuration of a group by its name, unresolved."""
    every = [f"+{group}@{group}.{name}={name}" for name in options(group)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = OmegaConf.to_container(compose(overrides=every))
        except HydraException as error:
            raise ConfigError(_first_line(error)) from error
    assert isinstance(config, dict)
    values: Mapping[str, Mapping[str, object]] = config.get(group, {})
    return values


def compose_pairs(
    pairs: Sequence[tuple[str, str]], choices: Sequence[str]
) -> dict[tuple[str, str], DictConfig]:
    """Compose (method, task) pairs.

    Hydra takes 0.15 s a composition, so methods and tasks are composed once each and put together:
    what differs between tasks comes from the task's composition, the rest from the method's.

    Raises:
        ConfigError: Hydra refuses, or a method and a task both set the same key.
    """
    first_method, first_task = pairs[0]
    of_method: dict[str, Mapping[str, object]] = {}
    of_task: dict[str, Mapping[str, object]] = {}
    for method in {method for method, _ in pairs}:
        of_method[method] = _composed((*choices, f"method={method}", f"task={first_task}"))
    of_task[first_task] = origin = of_method[first_method]
    for task in {task for _, task in pairs}:
        if task not in of_task:
            of_task[task] = _composed((*choices, f"method={first_method}", f"task={task}"))
    found = {}
    for method, task in pairs:
        changed = _changed(origin, of_task[task])
        for key in changed & _changed(origin, of_method[method]):
            raise ConfigError(f"method={method} and task={task} both set {key!r}; leave it to one")
        from_task = {key: of_task[task].get(key) for key in changed}
        found[method, task] = _settable({**of_method[method], **from_task})
    return found


def _changed(origin: Mapping[str, object], other: Mapping[str, object]) -> set[str]:
    """Keys at the root whose values differ."""
    return {key for key in {*origin, *other} if origin.get(key) != other.get(key)}


def has_key(config: DictConfig, key: str) -> bool:
    """Whether a dotted key exists, or may be given to a judge."""
    node: object = OmegaConf.to_container(config)
    parent = key.rpartition(".")[0]
    if parent.startswith("judge."):
        # Its class knows its keys, which the YAML leaves at their defaults.
        key = parent
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def run_settings(arguments: Sequence[str]) -> Settings:
    """Settings of a command that needs no grid: folders, tracking, model, device.

    Raises:
        ConfigError: Something in the configuration cannot work.
    """
    overrides = parse_overrides(arguments)
    grid = overrides.grid or options("grid")[0]
    config = compose_choices([f"grid={grid}", *overrides.groups])
    apply_where_known([config], overrides.values, otherwise="there is no key")
    return to_settings(config)


def _known_keys(config: DictConfig) -> list[str]:
    """All dotted keys, groups included."""
    found: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                found.append(f"{prefix}{name}")
                walk(value, f"{prefix}{name}.")

    walk(OmegaConf.to_container(config), "")
    return found


def apply_where_known(
    configs: Collection[DictConfig], overrides: Sequence[Override], *, otherwise: str
) -> None:
    """Set values in all configurations that have their keys, in place.

    Args:
        configs: Compositions.
        overrides: Values.
        otherwise: Starts the sentence about a key that none of them has.

    Raises:
        ConfigError: No configuration has the key, or one refuses the value.
    """
    for override in overrides:
        key = str(override.key_or_group)
        takers = [config for config in configs if has_key(config, key)]
        if not takers:
            known = {name for config in configs for name in _known_keys(config)}
            hint = did_you_mean(key, known)
            raise ConfigError(f"{override.input_line}: {otherwise} {key!r}; {hint}")
        for config in takers:
            apply(config, override)


def apply(config: DictConfig, override: Override) -> None:
    """Set one value in place; interpolations that use it follow.

    Raises:
        ConfigError: The configuration refuses.
    """
    key = str(override.key_or_group)
    # A judge's class knows its keys, which the YAML leaves at their defaults.
    is_open = key.startswith("judge.")
    try:
        OmegaConf.update(config, key, override.value(), merge=False, force_add=is_open)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{override.input_line}: {_first_line(error)}") from error


def to_settings(config: DictConfig) -> Settings:
    """Resolve and check a composed configuration.

    Raises:
        ConfigError: An unknown or missing key, a wrong type, or an unknown interpolation.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    assert isinstance(values, dict)
    return build(Settings, {str(key): value for key, value in values.items()}, "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
