"""Whether what is named by a dotted path is there, before anything expensive."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from evaluators.base import Evaluator, JudgeConfig
from soarbench.common.errors import ConfigError
from soarbench.common.strict import dotted, imported
from soarbench.evaluation.reward_judge import RewardConfig
from soarbench.grid.cell import CellConfig
from soarbench.grid.checks import require_module, reward_judge


def look_up_rewards(cells: Iterable[CellConfig]) -> None:
    """Import every reward of the user's own; ``ConfigError`` where one cannot be asked.

    Only ``run`` does: reports are made on machines that have no such module.
    """
    named = {name: cell.judges for cell in cells for name in cell.rewards}
    for name, judges in named.items():
        if reward_judge(name) not in judges:
            _check(name, imported(name.replace(":", "."), "reward"))


def look_up_code(cells: Iterable[CellConfig]) -> None:
    """``ConfigError`` where a configuration's ``code`` names a module that is not there.

    Nothing would be known of a change to it: results of other code would be taken for its own.
    """
    named: set[tuple[str, str]] = set()
    for cell in cells:
        parts = (cell.method, cell.model, *cell.diversity.values())
        owners: list[tuple[str, object]] = [(f"{dotted(type(one))}.code", one) for one in parts]
        owners += [(_stated_by(key, judge), judge) for key, judge in cell.judges.items()]
        named |= {(owner, name) for owner, one in owners for name in getattr(one, "code", ())}
    for owner, name in sorted(named):
        require_module(name, owner)


def _stated_by(name: str, judge: JudgeConfig) -> str:
    """What says which modules a judge's code is in: of a registered reward a setting."""
    if isinstance(judge, RewardConfig):
        return f"judge.{name}.function={judge.function}"
    return f"{dotted(type(judge))}.code"


def _check(name: str, reward: object) -> None:
    if isinstance(reward, Evaluator):
        return
    if isinstance(reward, type):
        _check_class(name, reward)
        return
    if not callable(reward):
        raise ConfigError(
            f"reward={name!r} is a {type(reward).__name__}: name a function "
            "reward(prompts, images, **columns), or an Evaluator"
        )
    _check_parameters(name, reward)


def _check_class(name: str, kind: type) -> None:
    if not issubclass(kind, Evaluator):
        raise ConfigError(
            f"reward={name!r} is a class, and no Evaluator: name a function, or an instance that "
            "can be called like one"
        )
    if inspect.isabstract(kind):
        absent = ", ".join(sorted(kind.__abstractmethods__))
        raise ConfigError(f"reward={name!r}: this class lacks {absent}; write what is missing")


def _check_parameters(name: str, reward: object) -> None:
    assert callable(reward)
    try:
        parameters = inspect.signature(reward).parameters
    except ValueError:
        return  # Of a function in C nobody knows them.
    # TRL's are asked with completions; pictures come as images.
    texts = parameters.get("completions")
    needs_texts = texts is not None and texts.default is inspect.Parameter.empty
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    if needs_texts or not (takes_any or {"prompts", "images"} <= parameters.keys()):
        raise ConfigError(
            f"reward={name!r} takes ({', '.join(parameters)}): it is called with prompts=, images= "
            "and the data's columns; write reward(prompts, images, **columns)"
        )
