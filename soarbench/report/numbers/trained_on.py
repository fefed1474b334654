"""Which evaluators a task's training was driven by, from the cells' stored configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from soarbench.evaluation.reward_judge import rewarding
from soarbench.grid.checks import reward_judge
from soarbench.store.cells import Cell


def trained_on(cells: Sequence[Cell]) -> set[str]:
    """Evaluators that chose a task's data or gave its rewards; empty where its cells do not say."""
    evaluators: set[str] = set()
    for cell in cells:
        data, rewards = cell.config.get("data"), cell.config.get("rewards")
        if isinstance(data, Mapping):
            evaluators |= set(data.get("select_by", ()))
        if isinstance(rewards, Mapping):
            # Rewards go by the paper's names, panels by those of evaluators.
            evaluators |= {reward_judge(str(name)) for name in rewards}
            judges = cell.config.get("judges")
            evaluators |= rewarding(judges, rewards) if isinstance(judges, Mapping) else set()
    return evaluators
