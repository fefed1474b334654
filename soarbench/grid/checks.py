"""Refuses combinations of settings that cannot work, before anything is loaded."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence

from baselines.config import MethodConfig, TrainingConfig
from soarbench.common.errors import ConfigError, import_failure
from soarbench.common.strict import did_you_mean
from soarbench.config.settings import Settings, sizes_by_metric
from soarbench.models.base import UnknownArchitecture
from soarbench.models.families import KNOWN

#: The paper's names of the two rewards, and the evaluator each is.
NAMED_REWARDS = {"aesthetic": "aesthetic", "alignment": "clipscore"}


def reward_judge(name: str) -> str:
    """The judge that a reward asks; a function's name stays as it is."""
    return NAMED_REWARDS.get(name, name)


def reward_mixture(reward: str | dict[str, float] | None) -> dict[str, float]:
    """A reward as a mixture: name or dotted path to weight."""
    if reward is None:
        return {}
    return {reward: 1.0} if isinstance(reward, str) else reward


def check(settings: Settings, method: str) -> None:
    """Refuse combinations that cannot work; ``ConfigError`` names values and what to change."""
    seeds, config = settings.seeds, settings.method
    if not seeds or len(set(seeds)) != len(seeds) or not 0 <= min(seeds) <= max(seeds) < 2**32:
        raise ConfigError(
            f"seeds={list(seeds)}: give different integers in 0..{2**32 - 1}, e.g. [0,1]"
        )
    check_device(settings.device)
    if settings.robustness.enabled and not settings.diagnostics:
        raise ConfigError(
            "robustness.enabled=true: is one of the diagnostics; leave diagnostics=false out"
        )
    _check_evaluation(settings)
    check_model(settings)
    if config is None:
        return
    if config.needs_reward and not reward_mixture(settings.reward):
        raise ConfigError(
            f"task {settings.task.name!r} has no reward, which {method} needs: set reward=NAME or "
            f"leave {method} out with method=..."
        )
    _check_rewards(settings)
    training, optim, launcher = settings.training, settings.optim, settings.launcher
    if training is None or optim is None:
        raise ConfigError(f"method={method}: it needs training and optim")
    if training.num_snapshots == 0:
        raise ConfigError("training.num_snapshots=0: must be at least 1, or nothing is evaluated")
    try:
        config.check_sizes()
        training.check_method(
            updates_per_collection=config.updates_per_collection, group_size=config.group_size
        )
        training.check_processes(launcher.count)
        optim.check_parallelism(launcher.parallelism)
        optim.check_packages()
        if settings.ema is not None:
            training.check_average(settings.ema)
    except ValueError as error:
        raise ConfigError(f"method={method}: {error}") from error
    _check_shapes(settings, config, training)


def check_sizes(of_tasks: Sequence[Settings]) -> None:
    """Refuse margins and differences of metrics that decide no task."""
    # The report would say so when all is trained.
    names = [one.task.final_metric for one in of_tasks]
    titles = {name: str(one.judge[name].title) for name, one in zip(names, of_tasks, strict=True)}
    known = {name.lower() for pair in titles.items() for name in pair}
    for key in ("margin", "detect"):
        for metric in sizes_by_metric(key, getattr(of_tasks[0], key)):
            if metric.lower() not in known:
                raise ConfigError(
                    f"{key}={metric}: decides no task here; {did_you_mean(metric.lower(), titles)}"
                )


def check_device(device: str) -> None:
    """Refuse, by ``ConfigError``, what names no device; whether it is there only torch knows."""
    if device not in ("auto", "cpu", "cuda") and not device.removeprefix("cuda:").isdigit():
        raise ConfigError(f"device={device!r}: must be auto, cpu, cuda or cuda:N")


def require_device(device: str) -> None:
    """``UserError`` where a GPU that is named is not there."""
    # Torch takes seconds to import, and without a name there is nothing to look for.
    if device.startswith("cuda"):
        from soarbench.models.devices import torch_device

        torch_device(device)


def _check_evaluation(settings: Settings) -> None:
    judged: dict[str, str] = {}
    names = [suite.name for suite in settings.suites.values()]
    for key, suite in settings.suites.items():
        if names.count(suite.name) > 1:
            raise ConfigError(f"suites.{key}.name={suite.name!r}: another suite has that name")
        _check_judges(f"suites.{key}.judges", suite.judges, settings)
        for name in suite.judges:
            if name in judged:
                raise ConfigError(
                    f"suites.{key}.judges: {name!r} also judges suites.{judged[name]}; a "
                    "judge has one suite in a task, so that its number means one thing"
                )
            judged[name] = key
    _check_judges("data.select_by", settings.data.judged_by, settings)
    for name in (settings.task.final_metric, *settings.task.oracle_metrics):
        if name not in judged:
            raise ConfigError(
                f"task {settings.task.name!r} decides by {name!r}, which no suite of it measures; "
                "add it to suites.*.judges"
            )


def _check_judges(key: str, judges: Sequence[str], settings: Settings) -> None:
    for name in judges:
        if name not in settings.judge:
            hint = did_you_mean(name, settings.judge)
            raise ConfigError(f"{key}: {name!r} does not exist: {hint}")


def _check_shapes(settings: Settings, config: MethodConfig, training: TrainingConfig) -> None:
    """Refuse images of several sizes that the loop or the model cannot take."""
    data, model = settings.data, settings.model
    if data.rows_per_shape is None:
        return
    # A method that makes its own images makes them of one size.
    if config.trains_on == "images":
        try:
            training.check_shapes(data.rows_per_shape, settings.launcher.count)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    try:
        sizes = model.architecture()
    except UnknownArchitecture:
        # Found out when it is loaded.
        return
    data.check_sizes(model.resolution, sizes.unit, sizes.largest_image)


def check_model(settings: Settings) -> None:
    """Refuse weights of another family or kind, and sizes that they cannot make."""
    model = settings.model
    model.check_here()
    try:
        sizes = model.architecture()
    except UnknownArchitecture as error:
        if model.path in KNOWN:
            raise ConfigError(
                f"model.path={model.path}: is of another family than {model.kind}; choose "
                f"model={KNOWN[model.path]}"
            ) from error
        # Found out when it is loaded.
        return
    sizes.latent_shape(model.resolution)
    if sizes.is_distilled:
        _check_guidance(settings)


def _check_guidance(settings: Settings) -> None:
    """Refuse guidance of weights that were trained to do without a negative prompt."""
    method = {} if settings.method is None else vars(settings.method)
    scales = {
        "sampling.guidance_scale": settings.sampling.guidance_scale,
        "method.guidance_scale": method.get("guidance_scale", 1.0),
    }
    if settings.robustness.enabled:
        scales["robustness.guidance_scale"] = max(settings.robustness.guidance_scale, default=1.0)
    for key, value in scales.items():
        if value != 1:
            raise ConfigError(
                f"{key}={value}: the weights of model.path={settings.model.path} are distilled and "
                f"have no use for a negative prompt; use {key}=1, or the base they were made of"
            )


def _check_rewards(settings: Settings) -> None:
    rewards = reward_mixture(settings.reward)
    if not rewards:
        return
    if not all(map(math.isfinite, rewards.values())) or not any(rewards.values()):
        raise ConfigError(f"reward={rewards}: weights must be finite, and one of them not 0")
    for name in rewards:
        if reward_judge(name) in settings.judge:
            continue
        # A dotted path. The module is looked for, not imported: a user's may load a framework.
        module, _, function = name.replace(":", ".").rpartition(".")
        if not module or not function:
            hint = did_you_mean(name, {*NAMED_REWARDS, *settings.judge})
            raise ConfigError(f"reward={name!r} does not exist: {hint}")
        require_module(module, f"reward={name!r}")


def require_module(name: str, what: str) -> None:
    """``ConfigError`` where there is no such module, or a package around it cannot be imported."""
    absent = f"{what}: no module {name!r} can be found; check the dotted path and PYTHONPATH"
    try:
        # Of a module in a package this imports the package.
        spec = importlib.util.find_spec(name)
    except (Exception, SystemExit) as error:
        # ValueError: a name that begins with a dot, or is empty.
        lacks = error.name if isinstance(error, ModuleNotFoundError) else None
        if isinstance(error, ValueError) or (lacks and f"{name}.".startswith(f"{lacks}.")):
            raise ConfigError(absent) from error
        reason = import_failure(error)
        raise ConfigError(f"{what}: {name!r} cannot be imported ({reason})") from error
    if spec is None:
        raise ConfigError(absent)
