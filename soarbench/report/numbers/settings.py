"""What a cell was trained with: as settings by dotted key, and alike for all seeds of a method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from baselines.config import ADDRESS, TrainingConfig
from soarbench.common.errors import StoreError
from soarbench.store.cells import Cell

#: Of a cell's configuration: what a trial may set.
_PARTS = ("method", "optim", "lora", "ema", "training")
#: What changes speed or memory and no number, which machines may choose each for itself.
_FREE = {
    "method.aux_chunk",
    *(f"training.{one.name}" for one in fields(TrainingConfig) if one.metadata == ADDRESS),
}
Values = Mapping[str, object]


def settings_of(config: Values) -> dict[str, object]:
    """What may be set of a method, by dotted key, of a cell's configuration."""
    own = dict(flat({part: config.get(part) for part in _PARTS}))
    parent = config.get("parent")
    if not isinstance(parent, Mapping):
        return own
    return own | {f"parent.{key}": value for key, value in settings_of(parent).items()}


def refuse_unlike_seeds(cells: Sequence[Cell]) -> None:
    """``StoreError`` where a method's seeds were trained unlike each other; names the setting.

    An export may be joined from several folders, and a mean over its seeds would be of no method.
    """
    firsts: dict[tuple[str, str], tuple[Cell, Values]] = {}
    for cell in cells:
        own = _trained_with(cell)
        first, before = firsts.setdefault((cell.task, cell.method), (cell, own))
        # An older soarbench did not have every setting.
        for key in sorted(own.keys() & before.keys()):
            if own[key] != before[key]:
                raise StoreError(
                    f"{first.cell_id} and {cell.cell_id} are no two seeds of one method: {key} is "
                    f"{before[key]} and {own[key]}; report and export them apart"
                )


def _trained_with(cell: Cell) -> Values:
    """All that decides a cell's weights but its seed."""
    config = cell.config
    every = settings_of(config)
    own = {key: every[key] for key in every if key.replace("parent.", "") not in _FREE}
    others = {name: config.get(name) for name in ("weights_digest", "rewards", "reward_scale")}
    others["data"] = cell.data_key
    return own | {key: value for key, value in others.items() if value is not None}


def flat(values: Values, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as dotted keys."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
