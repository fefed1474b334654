"""The command line of ``plan`` becomes what is planned, without training data or weights."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from baselines.config import MethodConfig, OptimConfig, TrainingConfig
from evaluators.base import JudgeConfig
from soarbench.common.errors import ConfigError
from soarbench.common.strict import build, did_you_mean
from soarbench.config.compose import (
    Composition,
    apply,
    compose_choices,
    grid_config,
    parse_overrides,
)
from soarbench.config.keys import Options
from soarbench.config.run import LauncherConfig
from soarbench.config.settings import Settings
from soarbench.config.stages import stages
from soarbench.grid.checks import reward_judge, reward_mixture
from soarbench.planning.memory_and_time import UTILISATION, Demand, Gpu

_DEFAULT_GPU, _DEFAULT_GRID = "h100-80gb", "reward_specific"
_GPUS = Path(__file__).with_name("gpus.yaml")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for; demands by method."""

    gpu_name: str
    gpu: Gpu
    utilisation: float
    demands: Mapping[str, Demand]

    @property
    def steps(self) -> dict[str, int]:
        """Updates of a run, by method."""
        return {method: demand.training.steps for method, demand in self.demands.items()}


def gpus() -> dict[str, Gpu]:
    """Every GPU in the table."""
    rows = yaml.safe_load(_GPUS.read_text())
    return {name: build(Gpu, row, f"gpus.{name}") for name, row in rows.items()}


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """What ``plan`` takes beside the settings of a run.

    Attributes:
        gpu: A name of the table.
        utilisation: Share of the GPU's peak that training reaches.
    """

    gpu: str = _DEFAULT_GPU
    utilisation: float = UTILISATION

    def __post_init__(self) -> None:
        if self.gpu not in gpus():
            raise ValueError(f"gpu={self.gpu!r} is not known: {did_you_mean(self.gpu, gpus())}")
        if not 0 < self.utilisation <= 1:
            raise ValueError(
                f"utilisation={self.utilisation}: must be a share of the GPU's peak, in (0, 1]"
            )


def read_request(options: PlanOptions, words: Sequence[str]) -> Request:
    """What is planned with settings of a run; ``ConfigError`` where one of them cannot work."""
    return Request(
        gpu_name=options.gpu,
        gpu=gpus()[options.gpu],
        utilisation=options.utilisation,
        demands={method: _demand(found, method) for method, found in _compositions(words)},
    )


def _compositions(words: Sequence[str]) -> Iterator[tuple[str, Composition]]:
    """One composition a method; a value goes to those that have its key."""
    overrides = parse_overrides(words)
    overrides = replace(overrides, grid=overrides.grid or _DEFAULT_GRID)
    grid = grid_config(overrides)
    task = overrides.axes.get("task", grid.tasks)[0]
    choices = [f"grid={overrides.grid}", *overrides.groups, f"task={task}"]
    # A later stage is configured as that method is anywhere.
    of_grid = dict.fromkeys(stages(name)[-1] for name in grid.methods)
    composed = {
        name: compose_choices([*choices, f"method={name}"], overrides.folders)
        for name in overrides.axes.get("method", tuple(of_grid))
    }
    apply(overrides.values, composed.values())
    for name, composition in composed.items():
        if composition.plain("training") is None:
            raise ConfigError(f"method={name} is not trained; choose one of {', '.join(of_grid)}")
        # Everything but the data, which may not be named yet, has to be right as in a run.
        for key in typing.get_type_hints(Settings).keys() - {"data"}:
            composition.section(key)
        yield name, composition


def _demand(composition: Composition, method: str) -> Demand:
    part = composition.section
    launcher = part("launcher")
    assert isinstance(launcher, LauncherConfig)
    names = ("method", "optim", "training", "lora", "ema", "model")
    settings: dict[str, typing.Any] = {name: part(name) for name in names}
    training: TrainingConfig = settings["training"]
    optim: OptimConfig = settings["optim"]
    try:
        training.check_processes(launcher.num_processes)
        optim.check_parallelism(launcher.parallelism)
    except ValueError as error:
        raise ConfigError(f"method={method}: {error}") from error
    if settings["lora"] is not None:
        settings["lora"] = settings["model"].adapted(settings["lora"])
    return Demand(
        **settings,
        num_processes=launcher.num_processes,
        parallelism=launcher.parallelism,
        judges_gb=_judges_gb(composition, settings["method"], launcher.num_processes),
    )


def _judges_gb(composition: Composition, method: MethodConfig, num_processes: int) -> float:
    """Weights of the judges of a composition's suites and reward."""
    judges, suites = composition.section("judge"), composition.section("suites")
    reward = composition.section("reward")
    assert isinstance(judges, dict)
    assert isinstance(suites, dict)
    assert reward is None or isinstance(reward, (str, dict))
    rewards = reward_mixture(reward) if method.needs_reward else {}
    judging = {name for suite in suites.values() for name in suite.judges}
    return judges_gb(judges, judging, rewards, num_processes)


def judges_gb(
    judges: Mapping[str, JudgeConfig],
    judging: Iterable[str],
    rewards: Iterable[str],
    num_processes: int,
) -> float:
    """Weights of judges on the first GPU: the suites', and the reward's in the process that trains.

    Args:
        judges: By name.
        judging: Names of the suites' judges.
        rewards: Names of what rewards training.
        num_processes: That train together.
    """
    asked = {reward_judge(name) for name in rewards}
    # One process shares the judge between reward and suites; several have their own beside it.
    loaded = [*judging, *asked] if num_processes > 1 else {*judging, *asked}
    # What a reward function of the user's own holds, nobody knows.
    known = [judges[name] for name in loaded if name in judges]
    return sum(weights.memory_gb for judge in known for weights in judge.published)
