"""What a training is rewarded by: judges of the cell, or a function by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from baselines.rewards.base import (
    Mixture,
    RewardFunction,
    refusal,
    reward_name,
    tried_reward,
)
from baselines.rewards.evaluator import EvaluatorReward, resolve_reward
from evaluators.base import Evaluator
from soarbench.common.errors import UserError
from soarbench.data.encoded_rows import EncodedRows
from soarbench.grid.cell import CellConfig
from soarbench.grid.checks import reward_judge
from soarbench.models.base import ImageModel


def reward_parts(
    cell: CellConfig, evaluator: Callable[[CellConfig, str], Evaluator]
) -> dict[str, RewardFunction]:
    """Each of a cell's rewards by its name; ``evaluator`` gives a cell's judge by its name."""
    parts: dict[str, RewardFunction] = {}
    for name in cell.rewards:
        judge = reward_judge(name)
        if judge in cell.judges:
            parts[name] = EvaluatorReward(evaluator(cell, judge), name)
        else:
            parts[name] = resolve_reward(name)
    return parts


def reward_of(
    cell: CellConfig,
    evaluator: Callable[[CellConfig, str], Evaluator],
    scales: Mapping[str, float] | None = None,
) -> RewardFunction:
    """A cell's reward: its weighted parts, each divided by its scale where there are any."""
    parts = reward_parts(cell, evaluator)
    # Alone it keeps its own name in messages.
    if list(cell.rewards.values()) == [1.0] and not scales:
        return next(iter(parts.values()))
    return Mixture(parts, cell.rewards, scales)


def try_reward(reward: RewardFunction, rows: EncodedRows, model: ImageModel) -> None:
    """Ask the reward about two training pictures, once it can judge all prompts.

    ``UserError`` where there is a prompt that it cannot judge, ``RewardError`` where it fails.
    """
    refused = [
        (prompt, why)
        for prompt in rows.prompts
        if (why := refusal(reward, prompt, rows.columns(prompt)))
    ]
    if refused:
        prompt, why = refused[0]
        raise UserError(
            f"reward {reward_name(reward)!r} cannot judge {len(refused)} of {len(rows)} "
            f"training prompts, e.g. {prompt!r}: {why}. Train on prompts that it can judge "
            "(in the laboratory data.kinds=[text] or other kinds), or mix it with a reward "
            "for the others"
        )
    # Two, since a reward that gives one value for all of them is a common mistake.
    tried = [rows[index] for index in range(min(2, len(rows)))]
    columns = {name: [row["columns"][name] for row in tried] for name in tried[0]["columns"]}
    images = [model.decode(row["x0"][None].to(model.device))[0] for row in tried]
    tried_reward(reward, [row["prompt"] for row in tried], images, columns)
