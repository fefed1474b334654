"""The rule that marks a checkpoint, as a setting: refused where it would choose what was gamed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

LAST = "last"
_BEST = "best:"


def judge_of(rule: str) -> str:
    """The evaluator that a ``best:NAME`` rule asks; empty for ``last``."""
    return rule.removeprefix(_BEST) if rule.startswith(_BEST) else ""


def problem_with(
    rule: str,
    judged: Mapping[str, Collection[str]],
    trained: Mapping[str, Collection[str]],
    oracles: Collection[str],
) -> str | None:
    """Why a rule cannot be used, in one line that ends with a remedy; None when it can.

    ``judged`` are the evaluators of each task; ``trained`` those that its training data or reward
    were chosen by; ``oracles`` know the truth.
    """
    key = f"grid.checkpoint_rule={rule}"
    judge = judge_of(rule)
    if rule == LAST:
        return None
    if not judge:
        return f"{key}: must be {LAST}, or {_BEST}NAME with the name of an evaluator"
    if judge in oracles:
        return f"{key}: outside the laboratory nobody has an oracle to choose by; use {LAST}"
    for task, judges in judged.items():
        # Trained on, OCR rises while the background is erased (UniRL PR 407).
        if judge in trained[task]:
            return (
                f"{key}: task {task!r} trains on {judge!r}, so the best step would be the most "
                f"gamed one; choose another evaluator, or {LAST}"
            )
        if judge not in judges:
            return (
                f"{key}: no suite of task {task!r} is judged by {judge!r}; add it to "
                f"suites.*.judges, or use {LAST}"
            )
    return None
