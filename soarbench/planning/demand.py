"""What is planned, by the command line of ``plan`` or a cell: no training data, no weights."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from evaluators.base import SERVER, JudgeConfig
from soarbench.common.errors import ConfigError
from soarbench.common.strict import build, did_you_mean
from soarbench.config.compose import compose_methods
from soarbench.config.keys import Options
from soarbench.config.overrides import Overrides, parse_overrides
from soarbench.config.run import ProcessesConfig
from soarbench.config.settings import GridConfig, SamplingConfig, Settings, SuiteConfig
from soarbench.config.stages import stages
from soarbench.config.sweeps import swept_grid
from soarbench.grid.cell import CellConfig, as_trained
from soarbench.grid.checks import reward_judge, reward_mixture
from soarbench.models.base import ModelConfig
from soarbench.planning.memory_and_time import UTILISATION, Demand, Gpu, weights_gb

#: Of which a plan is where the command line names no grid.
DEFAULTS = ("grid=reward_specific",)
_DEFAULT_GPU = "h100-80gb"
_GPUS = Path(__file__).with_name("gpus.yaml")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for; demands by method, of one task of a grid."""

    grid: str
    task: str
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
        gpu: By its name; ``ls gpus`` lists them.
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
    grid, overrides = _chosen(words)
    # Its tasks differ in their data, which no plan looks at.
    task = overrides.axes.get("task", grid.tasks)[0]
    return Request(
        grid=grid.name,
        task=task,
        gpu_name=options.gpu,
        gpu=gpus()[options.gpu],
        utilisation=options.utilisation,
        demands={
            method: _demand(parts, method) for method, parts in _settings(grid, task, overrides)
        },
    )


def _chosen(words: Sequence[str]) -> tuple[GridConfig, Overrides]:
    """The grid of a command line, and what it says beside it."""
    overrides, own = parse_overrides(words), parse_overrides(DEFAULTS)
    return swept_grid(replace(overrides, grid=overrides.grid or own.grid))


def _settings(
    grid: GridConfig, task: str, overrides: Overrides
) -> Iterator[tuple[str, Mapping[str, typing.Any]]]:
    """The parts of each method's ``Settings``; a value goes to those that have its key."""
    # A later stage is configured as that method is anywhere.
    of_grid = dict.fromkeys(stages(n)[-1] for n in grid.methods if n not in grid.untrained)
    if not of_grid:
        raise ConfigError(
            f"grid={grid.name} trains nothing, so there is no training to plan; "
            f"`python -m soarbench run grid={grid.name} --dry-run` says what it takes"
        )
    names = overrides.axes.get("method", tuple(of_grid))
    composed = compose_methods([(name, task) for name in names], overrides, grid.variants)
    for name in names:
        composition = composed[name, task]
        if composition.plain("training") is None:
            raise ConfigError(f"method={name} is not trained; choose one of {', '.join(of_grid)}")
        # Everything but the data, which may not be named yet, has to be right as in a run.
        keys = typing.get_type_hints(Settings).keys() - {"data"}
        yield name, {key: composition.section(key) for key in keys}


def _demand(settings: Mapping[str, typing.Any], method: str) -> Demand:
    launcher, lora, reward = settings["launcher"], settings["lora"], settings["reward"]
    try:
        settings["method"].check_sizes()
        settings["training"].check_processes(launcher.count)
        settings["optim"].check_parallelism(launcher.parallelism)
    except ValueError as error:
        raise ConfigError(f"method={method}: {error}") from error
    rewards = reward_mixture(reward) if settings["method"].needs_reward else {}
    return Demand(
        **{name: settings[name] for name in ("method", "optim", "training", "ema")},
        model=as_trained(settings["model"], settings["training"]),
        lora=None if lora is None else settings["model"].adapted(lora),
        num_processes=launcher.count,
        parallelism=launcher.parallelism,
        drawn_rows=_drawn_rows(settings["sampling"], settings["model"]),
        **_judging(settings["judge"], settings["suites"], rewards),
    )


def demand_of(cell: CellConfig, processes: ProcessesConfig) -> Demand:
    """What training a cell asks of each GPU."""
    assert cell.method is not None
    assert cell.optim is not None
    assert cell.training is not None
    return Demand(
        model=cell.trained_model,
        method=cell.method,
        optim=cell.optim,
        training=cell.training,
        lora=cell.lora,
        ema=cell.ema,
        num_processes=processes.count,
        parallelism=processes.parallelism,
        drawn_rows=_drawn_rows(cell.sampling, cell.model),
        **_judging(cell.judges, cell.suites, cell.rewards),
    )


def _drawn_rows(sampling: SamplingConfig, model: ModelConfig) -> int:
    """Rows of a forward that draws images: guidance doubles them."""
    branches = 1 if sampling.guidance_scale == 1 else 2
    return branches * sampling.images_at_once(model.resolution)


def _judging(
    judges: Mapping[str, JudgeConfig], suites: Mapping[str, SuiteConfig], rewards: Iterable[str]
) -> dict[str, typing.Any]:
    """What is on the first GPU of the suites' judges and the reward's, by field of ``Demand``."""
    # What a reward function of the user's own holds, nobody knows.
    on_gpu = {name: judge for name, judge in judges.items() if judge.runs_on not in ("cpu", SERVER)}
    asking = {reward_judge(name) for name in rewards}
    judging = {name for suite in suites.values() for name in suite.judges}
    # In the judges' order: sums must be the same bits in all processes that train together.
    asked = [judge for name, judge in on_gpu.items() if name in asking]
    loaded = [judge for name, judge in on_gpu.items() if name in judging | asking]
    return {
        "judges_gb": sum(map(weights_gb, loaded)),
        "rewards_gb": sum(map(weights_gb, asked)),
        "judging_gb": max((judge.batch_gb for judge in loaded), default=0.0),
        "rewarding_gb": max((judge.batch_gb for judge in asked), default=0.0),
    }
