"""A grid expands into cells; a cell's address is the digest of its resolved configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from baselines.config import FlowGrpoConfig
from soarbench.composition import (
    Overrides,
    apply,
    compose_choices,
    compose_pairs,
    grid_descriptions,
    has_key,
    known_keys,
    options,
    parse_overrides,
    to_settings,
)
from soarbench.config import BASE, CellConfig, GridConfig, Settings, SuiteConfig, post_training
from soarbench.data.suites import suite_names
from soarbench.errors import ConfigError
from soarbench.models.config import LABORATORY, ModelConfig
from soarbench.typed import did_you_mean

#: The paper's names of the two rewards, and the evaluator each is.
NAMED_REWARDS = {"aesthetic": "aesthetic", "alignment": "clipscore"}
_WHOLE_FILE = 64 * 2**20


@dataclass(frozen=True)
class Plan:
    """A grid, ready to be run.

    Attributes:
        settings: Those of the run itself (folders, device, tracking, budget, grid).
        cells: The base first, then by task, seed and method.
    """

    settings: Settings
    cells: tuple[CellConfig, ...]

    @property
    def folder(self) -> Path:
        """The grid's run folder."""
        return Path(self.settings.output_dir).expanduser() / self.settings.grid.name

    def cell_folder(self, cell: CellConfig) -> Path:
        """Where a cell keeps its files."""
        return self.folder / "cells" / cell.cell_id


def expand(arguments: Sequence[str]) -> Plan:
    """Make the plan of a command line; loads no model.

    Raises:
        ConfigError: No grid is named, or something in the configuration cannot work.
    """
    overrides = parse_overrides(arguments)
    if overrides.grid is None:
        known = "; ".join(f"grid={name}: {text}" for name, text in grid_descriptions().items())
        raise ConfigError(f"name a grid. {known}")
    grid = _grid_config(overrides)
    methods = _selected("method", overrides, (BASE, *grid.methods), grid)
    tasks = _selected("task", overrides, grid.tasks, grid)
    # The base is evaluated for all tasks of the grid, whichever are selected, so that its cell is
    # the same one.
    pairs = [(BASE, task) for task in grid.tasks]
    pairs += [(method, task) for task in tasks for method in methods if method != BASE]
    composed = _compose_all(pairs, overrides)
    settings = {pair: to_settings(config) for pair, config in composed.items()}
    for (method, _), found in settings.items():
        check(found, method)
    run = settings[pairs[0]]
    digest = weights_digest(run.model)
    cells = [_base_cell([settings[BASE, task] for task in grid.tasks], digest)]
    for task in tasks:
        for seed in run.seeds:
            for method in methods:
                if method != BASE:
                    cells.append(_trained_cell(settings[method, task], method, seed, digest))
    return Plan(run, tuple(cells))


def _grid_config(overrides: Overrides) -> GridConfig:
    config = compose_choices([f"grid={overrides.grid}"])
    for override in overrides.values:
        if str(override.key_or_group).startswith("grid.") and has_key(
            config, str(override.key_or_group)
        ):
            apply(config, override)
    grid = to_settings(config).grid
    for axis, names in (("method", grid.methods), ("task", grid.tasks)):
        for name in names:
            if name not in options(axis):
                raise ConfigError(
                    f"grid.{axis}s: {name!r} does not exist: {did_you_mean(name, options(axis))}"
                )
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"grid.{axis}s={list(names)}: name each once, and at least one")
    return grid


def _selected(
    axis: str, overrides: Overrides, available: Sequence[str], grid: GridConfig
) -> tuple[str, ...]:
    """The grid's methods or tasks that the command line keeps, in the grid's order."""
    wanted = overrides.axes.get(axis, tuple(available))
    for name in wanted:
        if name not in available:
            raise ConfigError(
                f"{axis}={name!r} is not part of grid {grid.name!r}: choose among "
                f"{', '.join(available)}, or add it with grid.{axis}s=[...]"
            )
    return tuple(name for name in available if name in wanted)


def _compose_all(
    pairs: Sequence[tuple[str, str]], overrides: Overrides
) -> dict[tuple[str, str], DictConfig]:
    """Compose every (method, task); a value applies to all compositions that have its key."""
    found = compose_pairs(pairs, [f"grid={overrides.grid}", *overrides.groups])
    for override in overrides.values:
        key = str(override.key_or_group)
        takers = [config for config in found.values() if has_key(config, key)]
        if not takers:
            known = {name for config in found.values() for name in known_keys(config)}
            raise ConfigError(
                f"{override.input_line}: no cell has a key {key!r}; {did_you_mean(key, known)}"
            )
        for config in takers:
            apply(config, override)
    return found


def _base_cell(settings: Sequence[Settings], digest: str) -> CellConfig:
    """The base model, evaluated on every suite of every task by every judge of the suite."""
    suites: dict[str, SuiteConfig] = {}
    for suite in (suite for found in settings for suite in found.suites.values()):
        other = suites.get(suite.name, suite)
        if (other.images_per_prompt, other.max_prompts) != (
            suite.images_per_prompt,
            suite.max_prompts,
        ):
            raise ConfigError(
                f"suite {suite.name!r} has different sizes in different tasks; set suites.*."
                "images_per_prompt and max_prompts alike, since the base is evaluated once"
            )
        judges = tuple(dict.fromkeys((*other.evaluators, *suite.evaluators)))
        suites[suite.name] = dataclasses.replace(suite, evaluators=judges)
    return _cell(settings[0], BASE, 0, digest, suites)


def _trained_cell(settings: Settings, method: str, seed: int, digest: str) -> CellConfig:
    suites = {suite.name: suite for suite in settings.suites.values()}
    return _cell(settings, method, seed, digest, suites)


def _cell(
    settings: Settings, method: str, seed: int, digest: str, suites: Mapping[str, SuiteConfig]
) -> CellConfig:
    is_base = method == BASE
    uses_reward = isinstance(settings.method, FlowGrpoConfig)
    rewards = reward_weights(settings) if uses_reward else {}
    judges = {name for suite in suites.values() for name in suite.evaluators}
    judges |= {NAMED_REWARDS.get(name, name) for name in rewards} & set(settings.evaluators)
    judges |= set() if is_base else set(settings.data.select_by)
    return CellConfig(
        grid=settings.grid.name,
        method_name=method,
        task=None if is_base else settings.task,
        seed=seed,
        method=settings.method,
        optim=settings.optim,
        lora=settings.lora,
        ema=settings.ema,
        training=settings.training,
        data=None if is_base else settings.data,
        rewards=rewards,
        suites=suites,
        model=settings.model,
        sampling=settings.sampling,
        evaluators={name: settings.evaluators[name] for name in sorted(judges)},
        weights_digest=digest,
    )


def reward_weights(settings: Settings) -> dict[str, float]:
    """The configured reward as a mixture: name or dotted path to weight."""
    if settings.reward is None:
        return {}
    return {settings.reward: 1.0} if isinstance(settings.reward, str) else settings.reward


def check(settings: Settings, method: str) -> None:
    """Refuse combinations that cannot work.

    Raises:
        ConfigError: Names the values and what to change.
    """
    seeds = settings.seeds
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds={list(seeds)}: give different non-negative integers, e.g. [0,1]")
    device = settings.device
    if device not in ("auto", "cpu", "cuda") and not device.removeprefix("cuda:").isdigit():
        raise ConfigError(f"device={device!r}: must be auto, cpu, cuda or cuda:N")
    _check_evaluation(settings)
    if isinstance(settings.method, FlowGrpoConfig):
        _check_rewards(settings)
    _check_training(settings, method)


def _check_evaluation(settings: Settings) -> None:
    judged: dict[str, str] = {}
    names = [suite.name for suite in settings.suites.values()]
    for key, suite in settings.suites.items():
        if suite.name not in suite_names():
            hint = did_you_mean(suite.name, suite_names())
            raise ConfigError(f"suites.{key}.name={suite.name!r} does not exist: {hint}")
        if names.count(suite.name) > 1:
            raise ConfigError(f"suites.{key}.name={suite.name!r}: another suite has that name")
        _check_judges(f"suites.{key}.evaluators", suite.evaluators, settings)
        for name in suite.evaluators:
            if name in judged:
                raise ConfigError(
                    f"suites.{key}.evaluators: {name!r} also judges suites.{judged[name]}; an "
                    "evaluator has one suite in a task, so that its number means one thing"
                )
            judged[name] = key
    _check_judges("data.select_by", settings.data.select_by, settings)
    for name in (settings.task.final_metric, *settings.task.oracle_metrics):
        if name not in judged:
            raise ConfigError(
                f"task {settings.task.name!r} decides by {name!r}, which no suite of it measures; "
                "add it to suites.*.evaluators"
            )


def _check_judges(key: str, judges: Sequence[str], settings: Settings) -> None:
    for name in judges:
        if name not in settings.evaluators:
            hint = did_you_mean(name, settings.evaluators)
            raise ConfigError(f"{key}: {name!r} does not exist: {hint}")


def _check_training(settings: Settings, method: str) -> None:
    if settings.method is None:
        return
    if settings.training is None or settings.optim is None:
        raise ConfigError(f"method={method}: it needs training and optim")
    unit, group = 1, 1
    if isinstance(settings.method, FlowGrpoConfig):
        unit, group = settings.method.updates_per_collection, settings.method.group_size
    try:
        loop = post_training(settings.training, settings.optim, settings.lora, settings.ema, 0)
        loop.check_method(updates_per_collection=unit, group_size=group)
    except ValueError as error:
        raise ConfigError(f"method={method}: {error}") from error


def _check_rewards(settings: Settings) -> None:
    rewards = reward_weights(settings)
    if not rewards:
        raise ConfigError(
            f"task {settings.task.name!r} has no reward, which flow_grpo needs: set reward=NAME "
            "or leave flow_grpo out with method=..."
        )
    known = {*NAMED_REWARDS, *settings.evaluators}
    for name in rewards:
        if NAMED_REWARDS.get(name, name) in settings.evaluators:
            continue
        module, _, function = name.replace(":", ".").rpartition(".")
        if not module or not function:
            raise ConfigError(f"reward={name!r} does not exist: {did_you_mean(name, known)}")
        if not _module_exists(module):
            raise ConfigError(
                f"reward={name!r}: no module {module!r} can be found; check the dotted path and "
                "PYTHONPATH"
            )


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def weights_digest(model: ModelConfig) -> str:
    """What identifies the base's weights, without loading them.

    The laboratory: its manifest. A directory: names and sizes of all files and the content of
    their ends, since hashing 15 GB before every run would take a minute. A hub id: its revision.

    Raises:
        UserError: The laboratory was not built, or the directory is no pipeline.
    """
    if model.path == LABORATORY:
        from soarbench.lab.assets import manifest

        # The card lies outside the assets' folders and says nothing that changes a number.
        return _digest(repr(sorted(row for row in manifest().items() if "/" in row[0])).encode())
    folder = Path(model.path).expanduser()
    is_local = folder.exists() or folder.is_absolute() or model.path.startswith((".", "~"))
    if is_local and not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"model.path={model.path}: no model_index.json there; give a directory saved by "
            "StableDiffusion3Pipeline.save_pretrained, a hub id, or 'lab'"
        )
    if not is_local:
        return f"{model.path}@{model.revision}"
    parts = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        with path.open("rb") as stream:
            ends = stream.read(_WHOLE_FILE)
            stream.seek(max(size - _WHOLE_FILE, 0))
            ends += stream.read() if size > _WHOLE_FILE else b""
        parts.append(f"{path.relative_to(folder)} {size} {_digest(ends)}")
    return _digest("\n".join(parts).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
