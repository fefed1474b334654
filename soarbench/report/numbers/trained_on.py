"""Which evaluators a task's training was driven by, from the cells' stored configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from soarbench.common.files import read_json
from soarbench.grid.checks import NAMED_REWARDS
from soarbench.store.cells import Cell


def trained_on(cells: Sequence[Cell]) -> set[str]:
    """Evaluators that chose training data or gave rewards; empty where the cells do not say.

    Args:
        cells: Of one task.
    """
    found: set[str] = set()
    for cell in cells:
        config = read_json(cell.folder / "config.json").get("config")
        if not isinstance(config, Mapping):
            continue
        data, rewards = config.get("data"), config.get("rewards")
        if isinstance(data, Mapping):
            found |= set(data.get("select_by", ()))
        if isinstance(rewards, Mapping):
            found |= {NAMED_REWARDS.get(str(name), str(name)) for name in rewards}
    return found
