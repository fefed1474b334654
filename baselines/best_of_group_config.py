"""Settings of best-of-group fine-tuning; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from baselines.config import require
from baselines.group_config import SelectionConfig

if TYPE_CHECKING:
    from baselines.base import Method, World


@dataclass(frozen=True, kw_only=True)
class BestOfGroupConfig(SelectionConfig):
    """Rejection fine-tuning: SFT on the best of the model's own images (flow_grpo's OnlineSFT).

    Attributes:
        keep: Images of every group that are trained on. flow_grpo 1.
    """

    kind: ClassVar[str] = "best_of_group"
    code: ClassVar[tuple[str, ...]] = (
        "baselines.best_of_group",
        "baselines.flow",
        "baselines.flow_matching",
        "baselines.group_config",
        "baselines.group_method",
        "baselines.groups",
        "baselines.judged_rollouts",
    )
    title: ClassVar[str] = "Best of group"

    keep: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = f"use 1..{self.group_size}, at most group_size"
        require(1 <= self.keep <= self.group_size, "keep", self.keep, remedy)

    @override
    def build(self, world: World) -> Method:
        method: Method = resolve_name("baselines.best_of_group:BestOfGroup")(self, world)
        return method

    @override
    def forward_equivalents(self) -> float:
        # Of the images that are kept, a forward and a backward of two.
        return self.rollout_forwards + 3 * self.forwards_with_gradient()

    @override
    def forwards_with_gradient(self) -> float:
        return self.keep / self.group_size
