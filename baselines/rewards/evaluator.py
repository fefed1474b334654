"""Any evaluator can be a reward, and a user's function by its dotted path."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from baselines.rewards.base import RewardError, RewardFunction
from evaluators.base import Evaluator, Sample
from evaluators.scoring import checked_scores

if TYPE_CHECKING:
    from PIL import Image


log = logging.getLogger(__name__)


class EvaluatorReward:
    """What an evaluator's scores are worth to it (``Evaluator.reward``).

    ``EvaluatorError`` where its canaries fail. ``name`` is for messages.
    """

    def __init__(self, evaluator: Evaluator, name: str | None = None) -> None:
        # Training on an evaluator that does not work is worse than not training.
        evaluator.check_canaries()
        self.evaluator = evaluator
        self.name = name or evaluator.name
        self.runs_on = evaluator.config.runs_on

    def check(self, prompt: str, columns: Mapping[str, object]) -> None:
        """``ValueError`` for a prompt that the evaluator cannot judge images of."""
        self.evaluator.check(prompt, _metadata(columns))

    def __call__(
        self, *, prompts: Sequence[str], images: Sequence[Image.Image], **columns: Sequence[object]
    ) -> list[float]:
        """Score images; ``columns`` become the samples' metadata.

        An image that could not be scored gets the mean of its prompt's others, and so no advantage
        over them: a server that stumbles once must not end hours of training. ``RewardError`` where
        half of a prompt's images, or more, could not be scored.
        """
        samples = [
            Sample(
                sample_id=f"rollout/{index:05d}",
                prompt_id=prompt,
                prompt=prompt,
                image=image,
                metadata=_metadata({name: c[index] for name, c in columns.items()}),
            )
            for index, (prompt, image) in enumerate(zip(prompts, images, strict=True))
        ]
        scores = checked_scores(self.evaluator, samples)
        values = {
            index: self.evaluator.reward(score)
            for index, score in enumerate(scores)
            if score.reason is None
        }
        known: dict[str, list[float]] = {prompt: [] for prompt in prompts}
        for index, value in values.items():
            known[prompts[index]].append(value)
        for index, (prompt, score) in enumerate(zip(prompts, scores, strict=True)):
            if index in values:
                continue
            where = f"image {index} of {len(images)}, prompt {prompt!r}: {score.reason}"
            if 2 * len(known[prompt]) <= prompts.count(prompt):
                raise RewardError(
                    f"reward {self.name!r} could not score {where}; use prompts that it can score"
                )
            log.warning("reward %r could not score %s; it gets its prompt's mean", self.name, where)
            values[index] = math.fsum(known[prompt]) / len(known[prompt])
        return [values[index] for index in range(len(scores))]


def _metadata(columns: Mapping[str, object]) -> dict[str, object]:
    """A sample's metadata of one image's columns."""
    row = dict(columns)
    # GenEval's prompt files keep what is asked for in a column of mappings of that name.
    nested = row.pop("metadata", {})
    return row | (dict(nested) if isinstance(nested, Mapping) else {"metadata": nested})


def resolve_reward(path: str) -> RewardFunction:
    """Import a reward by its dotted path; ``RewardError`` where nothing fit is there.

    That is ``package.module.function`` or ``package.module:function``, where an evaluator, or an
    evaluator's class that takes no arguments, may stand for the function.
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
        kind = named
        try:
            named = kind()
        except TypeError as err:
            raise RewardError(
                f"reward {path!r}: {kind.__name__} cannot be made without arguments ({err}); name "
                "an instance of it"
            ) from err
    if isinstance(named, Evaluator):
        return EvaluatorReward(named)
    if inspect.isclass(named) or not callable(named):
        raise RewardError(
            f"reward {path!r} is a {type(named).__name__}: name a function "
            "reward(prompts, images, **columns), or an instance that can be called like one"
        )
    reward: RewardFunction = named
    return reward
