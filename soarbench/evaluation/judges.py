"""Which judges can judge which prompts, asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from evaluators.base import JudgeConfig
from soarbench.common.errors import UserError


def refuse_unjudgeable(
    judges: Collection[JudgeConfig], prompts: Iterable[tuple[str, str, Mapping[str, object]]]
) -> None:
    """Make sure that judges can judge prompts; ``UserError`` names the first that cannot be judged.

    Args:
        judges: All of them are asked.
        prompts: What to call each in messages, its text, and its metadata.
    """
    for label, prompt, metadata in prompts:
        for judge in judges:
            try:
                judge.check_prompt(prompt, metadata)
            except ValueError as error:
                raise UserError(f"{label}: {error}") from error
