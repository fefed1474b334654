"""Whether a model would be trained on what it is evaluated by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from soarbench.common.errors import UserError
from soarbench.data.prompts import PromptSuite, normalised


def refuse_overlap(training_prompts: Iterable[str], suites: Sequence[PromptSuite]) -> None:
    """Refuse to train on a prompt that an evaluation asks for.

    Raises:
        UserError: A training prompt is also in a suite; names both.
    """
    held_out = {normalised(item.prompt): suite.name for suite in suites for item in suite.items}
    for prompt in training_prompts:
        suite_name = held_out.get(normalised(prompt))
        if suite_name is not None:
            raise UserError(
                f"training prompt {prompt!r} is also in the evaluation suite {suite_name!r}; "
                "remove it from the training data, since its score would mean nothing"
            )
