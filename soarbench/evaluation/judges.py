"""Which judges can judge which prompts, asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evaluators.base import JudgeConfig
from soarbench.common.errors import UserError


def refuse_unjudgeable(
    judges: Iterable[JudgeConfig], prompts: Iterable[tuple[str, str, Mapping[str, object]]]
) -> None:
    """Make sure that judges can judge prompts.

    Args:
        judges: All of them are asked.
        prompts: What to call each in messages, its text, and its metadata.

    Raises:
        UserError: Names the first that cannot be judged, and why.
    """
    asked = list(judges)
    for label, prompt, metadata in prompts:
        for judge in asked:
            try:
                judge.check_prompt(prompt, metadata)
            except ValueError as error:
                raise UserError(f"{label}: {error}") from error
