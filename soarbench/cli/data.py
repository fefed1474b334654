"""``python -m soarbench data score|filter|check``: what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from soarbench.common.errors import ConfigError
from soarbench.common.strict import did_you_mean
from soarbench.config.compose import options
from soarbench.data.config import ImageDataConfig
from soarbench.grid.expand import Plan, expand

_OWN = {"score": ("judge", "output"), "check": ("output", "near")}


def data(action: str, words: Sequence[str], *, console: Console) -> int:
    """Do one of the actions.

    Returns:
        Exit code: 0, or 1 when ``check`` finds something.

    Raises:
        UserError: Something in the request or the set cannot be used.
    """
    if action == "filter":
        return _filter(words, console)
    own, overrides = _sorted(words, _OWN[action])
    plan = _plan(overrides)
    config = plan.settings.data.with_content()
    if not isinstance(config, ImageDataConfig) or config.path is None:
        raise ConfigError(
            f"data.path= is missing, e.g. data {action} data.path=FILE (data=jsonl), or "
            "data=datasets or data=webdataset with data.path=DIR"
        )
    if action == "score":
        return _score(own, plan, config, console)
    return _check(own, plan, config, console)


def _sorted(words: Sequence[str], own: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The command's own words, and those that are settings of a run."""
    found, rest = {}, []
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key in own:
            found[key] = value
        else:
            rest.append(word)
    return found, rest


def _plan(overrides: Sequence[str]) -> Plan:
    """The settings that say which set, which judges and which suites; nothing is trained."""
    words = ["grid=main_table", f"grid.tasks=[{','.join(options('task'))}]", "method=base"]
    for group, choice in (("model", "sd35_medium"), ("data", "jsonl")):
        if not any(word.startswith(f"{group}=") for word in overrides):
            words.append(f"{group}={choice}")
    return expand([*words, *overrides])


def _score(own: Mapping[str, str], plan: Plan, data: ImageDataConfig, console: Console) -> int:
    from evaluators.base import Evaluator, EvaluatorError
    from soarbench.common.errors import UserError
    from soarbench.data.score_set import score_set

    judges = plan.settings.evaluators
    for key in ("judge", "output"):
        if not own.get(key):
            raise ConfigError(f"{key}= is missing, e.g. judge=aesthetic output=scored.jsonl")
    name = own["judge"]
    if name not in judges:
        raise ConfigError(f"judge={name!r} does not exist: {did_you_mean(name, judges)}")
    try:
        evaluator = judges[name].create(f"evaluators.{name}")
    except EvaluatorError as error:
        raise UserError(" ".join(str(error).split())) from error
    if not isinstance(evaluator, Evaluator):
        raise ConfigError(f"evaluators.{name}={judges[name].target} makes no Evaluator")
    return score_set(data, name, evaluator, Path(own["output"]).expanduser(), console)


def _filter(words: Sequence[str], console: Console) -> int:
    from soarbench.data.score_set import filter_set

    texts: dict[str, str] = {}
    thresholds: dict[str, float] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in ("input", "output"):
            texts[key] = value
            continue
        try:
            thresholds[key] = float(value)
        except ValueError as error:
            raise ConfigError(
                f"{word!r} is not understood here: this command takes input=FILE output=FILE and "
                "the least value of each score, e.g. aesthetic=6.8"
            ) from error
    for key in ("input", "output"):
        if not texts.get(key):
            raise ConfigError(f"{key}= is missing, e.g. input=scored.jsonl output=kept.jsonl")
    if not thresholds:
        raise ConfigError("name a score and its least value, e.g. aesthetic=6.8")
    source, output = (Path(texts[key]).expanduser() for key in ("input", "output"))
    return filter_set(source, output, thresholds, console)


def _check(own: Mapping[str, str], plan: Plan, data: ImageDataConfig, console: Console) -> int:
    from soarbench.data.check import SetCheck, check_set
    from soarbench.evaluation.suites import load_suite

    near = own.get("near", "false")
    if near not in ("true", "false"):
        raise ConfigError(f"near={near!r} must be true or false")
    suites = [
        load_suite(suite.name, suite.prompts)
        for suite in plan.cells[0].suites.values()
        if suite.name not in plan.without_prompts
    ]
    check = SetCheck(data, plan.settings.model.resolution, suites, near == "true")
    default = Path("runs/data_check") / f"{Path(str(data.path)).stem}.jsonl"
    output = Path(own["output"]).expanduser() if "output" in own else default
    return check_set(check, output, plan.without_prompts, console)
