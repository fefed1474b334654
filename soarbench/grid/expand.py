"""A command line expands into a grid: the cells that are compared, and where they go."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baselines.config import MethodConfig, TrainingConfig
from soarbench.common.errors import ConfigError
from soarbench.config.compose import compose_pairs, update_cost
from soarbench.config.overrides import Overrides, parse_overrides
from soarbench.config.settings import GridConfig, Settings, SuiteConfig, VariantConfig
from soarbench.config.stages import BASE, THEN, first_stage, stages
from soarbench.config.sweeps import swept_grid
from soarbench.evaluation.reward_judge import with_reward_judges
from soarbench.evaluation.suites import PromptFile
from soarbench.grid.cell import CellConfig
from soarbench.grid.checkpoint_rule import problem_with
from soarbench.grid.checks import check, check_sizes, reward_judge, reward_mixture
from soarbench.models.adapters import adapter_name
from soarbench.store.artefact import Store


@dataclass(frozen=True)
class Grid:
    """A grid, ready to be run.

    Attributes:
        settings: Those of the run itself (folders, device, tracking, budget, grid).
        cells: The base first, then by task, seed and method; a first stage before its second.
        arguments: The command line, with which another process can make the same grid.
    """

    settings: Settings
    cells: tuple[CellConfig, ...]
    arguments: tuple[str, ...] = ()

    @property
    def without_prompts(self) -> tuple[SuiteConfig, ...]:
        """Suites whose prompts come from a file that is not named yet."""
        suites = (suite for cell in self.cells for suite in cell.suites.values())
        return tuple({suite.name: suite for suite in suites if suite.needs_file}.values())

    @property
    def without_data(self) -> bool:
        """Whether something is trained on a set of images that is not named yet."""
        sets = (cell.data for cell in self.cells)
        return any(data is not None and not data.is_named for data in sets)

    @property
    def store(self) -> Store:
        """Where artefacts are, shared by all grids of an output directory."""
        return Store(Path(self.settings.output_dir).expanduser())

    @property
    def folder(self) -> Path:
        """Where the grid keeps what it names its cells, and how far they are."""
        return self.store.root / "grids" / self.settings.grid.name


def expand(arguments: Sequence[str]) -> Grid:
    """Make the grid of a command line; loads no model.

    ``ConfigError`` where no grid is named, or something in the configuration cannot work.
    """
    grid, overrides = swept_grid(parse_overrides(arguments))
    # Weights that others published are evaluated beside the base; nothing is trained.
    is_published = overrides.text("model.adapter") is not None
    if is_published and "method" in overrides.axes:
        raise ConfigError(
            "model.adapter evaluates published weights and trains nothing: leave method=... out"
        )
    methods = () if is_published else _trained_methods(grid, overrides)
    tasks = _selected("task", overrides, grid.tasks, grid)
    settings = _settings(grid, overrides, methods, tasks)
    costs = {} if is_published else _costs(grid, overrides, settings, tasks)
    bases = {task: settings[BASE, task] for task in grid.tasks}
    check_sizes([bases[task] for task in tasks])
    if not is_published:
        _check_rule(grid, bases)
    # The grid itself: a composition knows none of the variants that several values make.
    run = _with_rates(dataclasses.replace(bases[grid.tasks[0]], grid=grid), settings)
    # Once: it reads the ends of all files of weights.
    digest = dataclasses.replace(run.model, adapter=None).weights_digest()
    cells = [_base_cell(list(bases.values()), digest)]
    if is_published:
        for task in tasks:
            name = adapter_name(str(bases[task].model.adapter))
            cells.append(_evaluated_cell(bases[task], name, digest))
        # Without training the base is what everything is compared with.
        run = dataclasses.replace(run, grid=dataclasses.replace(run.grid, baseline=BASE))
    evaluated = [method for method in methods if method in grid.untrained]
    for task in tasks:
        for name in evaluated:
            variant = grid.variants[name]
            cells.append(_evaluated_cell(settings[name, task], name, digest, variant=variant))
        for seed in run.seeds:
            by_method: dict[str, CellConfig] = {}
            for method in methods:
                if method in evaluated:
                    continue
                by_method[method] = _cell(
                    settings[stages(method)[-1], task],
                    method,
                    digest=digest,
                    seed=seed,
                    variant=grid.variants.get(stages(method)[-1]),
                    parent=by_method.get(first_stage(method)),
                    costs=costs[task],
                )
            cells += by_method.values()
    return Grid(run, tuple(cells), tuple(arguments))


def require_baseline(grid: GridConfig) -> None:
    """``ConfigError`` where differences are taken to what no cell of the grid is."""
    known = (BASE, *_with_first_stages(grid.methods))
    if grid.baseline not in known:
        raise ConfigError(
            f"grid.baseline={grid.baseline!r}: is not among grid.methods={list(grid.methods)}, so "
            f"there would be no difference to it; choose among {', '.join(known)}, or add it"
        )


def _trained_methods(grid: GridConfig, overrides: Overrides) -> tuple[str, ...]:
    """The methods, each after the one whose weights it starts from."""
    return _with_first_stages(_selected("method", overrides, (BASE, *grid.methods), grid))


def _with_first_stages(methods: Iterable[str]) -> tuple[str, ...]:
    chains: dict[str, None] = {}
    for method in methods:
        parts = stages(method)
        chains |= dict.fromkeys(THEN.join(parts[:count]) for count in range(1, len(parts) + 1))
    return tuple(method for method in chains if method != BASE)


def _selected(
    axis: str, overrides: Overrides, available: Sequence[str], grid: GridConfig
) -> tuple[str, ...]:
    """The grid's methods or tasks that the command line keeps, in the grid's order."""
    chosen = overrides.axes.get(axis, tuple(available))
    for name in chosen:
        if name not in available:
            raise ConfigError(
                f"{axis}={name!r} is not part of grid {grid.name!r}: choose among "
                f"{', '.join(available)}, or add it with grid.{axis}s=[...]"
            )
    return tuple(name for name in available if name in chosen)


def _settings(
    grid: GridConfig, overrides: Overrides, methods: Sequence[str], tasks: Sequence[str]
) -> dict[tuple[str, str], Settings]:
    # The base is evaluated for all tasks of the grid, whichever are selected, so that its cell is
    # the same one.
    pairs = [(BASE, task) for task in grid.tasks]
    # A second stage is configured as that method is anywhere.
    trained = dict.fromkeys(stages(method)[-1] for method in methods)
    pairs += [(method, task) for task in tasks for method in trained]
    composed = compose_pairs(pairs, overrides, grid.variants)
    settings = {pair: _judged(composition.settings()) for pair, composition in composed.items()}
    # Others are there for what variants take of them, and are not trained.
    for method, task in pairs:
        check(settings[method, task], method)
    return settings


def _judged(settings: Settings) -> Settings:
    """Settings whose reward functions are in their tables, too."""
    names = reward_mixture(settings.reward)
    own = [name for name in names if reward_judge(name) not in settings.judge and "." in name]
    return with_reward_judges(settings, own) if own else settings


def _costs(
    grid: GridConfig,
    overrides: Overrides,
    settings: Mapping[tuple[str, str], Settings],
    tasks: Sequence[str],
) -> dict[str, tuple[float, ...]]:
    """By task, the forward equivalents at which its methods are compared, ascending."""
    # Of all methods of the grid, whichever are selected, so that a cell is the same one.
    methods = _with_first_stages(grid.methods)
    pairs = [(stages(method)[-1], task) for task in tasks for method in methods]
    costs = {pair: _stage_cost(one.training, one.method) for pair, one in settings.items()}
    absent = [pair for pair in dict.fromkeys(pairs) if pair not in costs]
    if absent:
        # With the others, which take the values that are theirs alone.
        composed = compose_pairs([*settings, *absent], overrides, grid.variants)
        parts = {pair: map(composed[pair].section, ("training", "method")) for pair in absent}
        costs |= {pair: _stage_cost(*both) for pair, both in parts.items()}
    levels = {}
    for task in tasks:
        totals = [sum(costs[part, task] for part in stages(method)) for method in methods]
        budget = settings[BASE, task].budget
        shared = {share * total for total in totals if total for share in budget.cost_shares}
        levels[task] = tuple(sorted(shared | {*budget.costs}))
    return levels


def _stage_cost(training: object, method: object) -> float:
    """What a stage costs; nothing without training."""
    if not isinstance(training, TrainingConfig) or not isinstance(method, MethodConfig):
        return 0.0
    return training.steps * update_cost(training, method)


def _check_rule(grid: GridConfig, settings: Mapping[str, Settings]) -> None:
    judged, trained, oracles = {}, {}, set[str]()
    for task, setting in settings.items():
        judged[task] = {name for suite in setting.suites.values() for name in suite.judges}
        rewards = {reward_judge(name) for name in reward_mixture(setting.reward)}
        trained[task] = rewards | set(setting.data.select_by)
        oracles |= {name for name, judge in setting.judge.items() if judge.is_oracle}
    problem = problem_with(grid.checkpoint_rule, judged, trained, oracles)
    if problem is not None:
        raise ConfigError(problem)


def _with_rates(run: Settings, settings: Mapping[tuple[str, str], Settings]) -> Settings:
    """Settings that know the speed of every method: a method's own YAML may state it."""
    known = [other.budget.rates.seconds_per_step for other in settings.values()]
    steps = {name: seconds for one in known for name, seconds in one.items()}
    run_rates = dataclasses.replace(run.budget.rates, seconds_per_step=steps)
    for name, variant in run.grid.variants.items():
        for task in [task for method, task in settings if method == name and variant.of != BASE]:
            own, others = (_update_cost(settings[method, task]) for method in (name, variant.of))
            seconds = run_rates.step_seconds(variant.of, task)
            steps[f"{name}/{task}"] = seconds * own / others
    rates = dataclasses.replace(run_rates, seconds_per_step=steps)
    return dataclasses.replace(run, budget=dataclasses.replace(run.budget, rates=rates))


def _update_cost(settings: Settings) -> float:
    assert settings.training is not None
    assert settings.method is not None
    return settings.training.update_cost(settings.method)


def _base_cell(settings: Sequence[Settings], digest: str) -> CellConfig:
    """The base model, evaluated on every suite of every task by every judge of the suite."""
    suites: dict[str, SuiteConfig] = {}
    for suite in (suite for setting in settings for suite in setting.suites.values()):
        other = suites.get(suite.name, suite)
        if len({(one.images_per_prompt, one.max_prompts) for one in (suite, other)}) > 1:
            raise ConfigError(
                f"suite {suite.name!r} has different sizes in different tasks; set suites.*."
                "images_per_prompt and max_prompts alike, since the base is evaluated once"
            )
        judges = tuple(dict.fromkeys((*other.judges, *suite.judges)))
        suites[suite.name] = dataclasses.replace(suite, judges=judges)
    return _cell(settings[0], BASE, digest=digest, suites=suites.values())


def _evaluated_cell(
    settings: Settings, name: str, digest: str, *, variant: VariantConfig | None = None
) -> CellConfig:
    """The base with other weights or another sampler, in a task; nothing is trained."""
    return dataclasses.replace(
        _cell(settings, BASE, digest=digest, variant=variant),
        method_name=name,
        task=settings.task,
        model=settings.model,
        weights_digest=settings.model.weights_digest(),
    )


def _cell(
    settings: Settings,
    method: str,
    *,
    digest: str,
    seed: int = 0,
    suites: Iterable[SuiteConfig] | None = None,
    parent: CellConfig | None = None,
    variant: VariantConfig | None = None,
    costs: tuple[float, ...] = (),
) -> CellConfig:
    """A cell, whose judges are those that somebody asks; None: the task's own suites."""
    is_base = method == BASE
    evaluated = list(settings.suites.values() if suites is None else suites)
    uses_reward = settings.method is not None and settings.method.needs_reward
    rewards = reward_mixture(settings.reward) if uses_reward else {}
    is_scaled = bool(rewards) and settings.reward_scale != "own"
    judges = {name for suite in evaluated for name in suite.judges}
    # A reward may be a user's function, and rows may come with a score that no judge gives.
    others = {reward_judge(name) for name in rewards}
    others |= set() if is_base else set(settings.data.select_by)
    judges |= others & set(settings.judge)
    return CellConfig(
        grid=settings.grid.name,
        method_name=method,
        task=None if is_base else settings.task,
        seed=seed,
        method=settings.method,
        optim=settings.optim,
        lora=None if settings.lora is None else settings.model.adapted(settings.lora),
        ema=settings.ema,
        training=settings.training,
        data=None if is_base else settings.data.with_content(),
        rewards=rewards,
        reward_scale=settings.reward_scale if is_scaled else "own",
        reward_sampling=settings.sampling if is_scaled else None,
        suites={suite.name: with_digest(suite) for suite in evaluated},
        # Training starts from the base, whatever is evaluated beside it.
        model=dataclasses.replace(settings.model, adapter=None),
        sampling=settings.sampling,
        robustness=settings.sampling.others(settings.robustness),
        judges={name: settings.judge[name] for name in sorted(judges)},
        weights_digest=digest,
        diversity={
            name: one for name, one in settings.diversity.items() if one.weights is not None
        },
        parent=parent,
        variant=variant,
        is_trial=settings.grid.selects and not is_base,
        costs=costs,
    )


def with_digest(suite: SuiteConfig) -> SuiteConfig:
    """The suite with the content of its prompts file in its address, where it has one."""
    if not isinstance(suite, PromptFile) or suite.path is None:
        return suite
    if not suite.path.is_file():
        raise ConfigError(f"suites.{suite.name}.prompts={suite.prompts}: no such file")
    digest = hashlib.sha256(suite.path.read_bytes()).hexdigest()
    if suite.prompts is None and suite.official is not None and digest != suite.official.sha256:
        raise ConfigError(
            f"{suite.path} is not the published file of suite {suite.name!r}: its sha256 is "
            f"{digest}; `python -m soarbench fetch {suite.fetched_by}` brings the published one"
        )
    return dataclasses.replace(suite, prompts_sha256=digest)
