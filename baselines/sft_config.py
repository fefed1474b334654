"""Settings of supervised fine-tuning; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from baselines.config import ADDRESS_IF_SET, MethodConfig, require_at_least, require_dropout

if TYPE_CHECKING:
    from baselines.base import Method, World


@dataclass(frozen=True, kw_only=True)
class SftConfig(MethodConfig):
    """Supervised fine-tuning.

    Attributes:
        condition_dropout: Probability, drawn for each row, of training on the empty prompt.
            Published 0.
        num_points: Points of its path, each with a level and a noise of its own, that a row is
            trained at in an update: loss terms a row, as SOAR has 1 + 6. Published 1.
    """

    kind: ClassVar[str] = "sft"
    code: ClassVar[tuple[str, ...]] = ("baselines.flow", "baselines.flow_matching", "baselines.sft")
    title: ClassVar[str] = "SFT"

    condition_dropout: float = 0.0
    num_points: int = field(default=1, metadata=ADDRESS_IF_SET)

    def __post_init__(self) -> None:
        require_dropout(self.condition_dropout)
        require_at_least(self, 1, "num_points")

    @override
    def build(self, world: World) -> Method:
        method: Method = resolve_name("baselines.sft:Sft")(self, schedule=world.schedule)
        return method

    @override
    def forward_equivalents(self) -> float:
        return 3.0 * self.num_points  # a forward, and a backward of two

    @override
    def forwards_with_gradient(self) -> float:
        return float(self.num_points)
