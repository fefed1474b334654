"""Rewards of users, by their dotted paths."""

from __future__ import annotations

import importlib
import inspect

from baselines.rewards.base import RewardError, RewardFunction
from baselines.rewards.evaluator import EvaluatorReward
from evaluators.base import Evaluator


def resolve_reward(path: str) -> RewardFunction:
    """Import a reward by its dotted path.

    Args:
        path: ``package.module.function`` or ``package.module:function``; or, in its place, an
            evaluator, or an evaluator's class that takes no arguments.

    Returns:
        The function.

    Raises:
        RewardError: Nothing callable is there, or it is another class.
    """
    module_path, _, attribute = path.replace(":", ".").rpartition(".")
    if not module_path or not attribute:
        raise RewardError(f"reward {path!r} is no dotted path: write package.module.function")
    try:
        named: object = getattr(importlib.import_module(module_path), attribute)
    except ImportError as err:
        raise RewardError(
            f"reward {path!r}: cannot import {module_path!r} ({err}); install it, or run from the "
            "directory that holds it"
        ) from err
    except AttributeError as err:
        raise RewardError(
            f"reward {path!r}: module {module_path!r} has no {attribute!r}; check the spelling"
        ) from err
    if inspect.isclass(named) and issubclass(named, Evaluator):
        named = _made(path, named)
    if isinstance(named, Evaluator):
        return EvaluatorReward(named)
    if inspect.isclass(named) or not callable(named):
        raise RewardError(
            f"reward {path!r} is a {type(named).__name__}: name a function "
            "reward(prompts, images, **columns), or an instance that can be called like one"
        )
    reward: RewardFunction = named
    return reward


def _made(path: str, kind: type[Evaluator]) -> Evaluator:
    try:
        return kind()
    except TypeError as err:
        raise RewardError(
            f"reward {path!r}: {kind.__name__} cannot be made without arguments ({err}); name an "
            "instance of it"
        ) from err
