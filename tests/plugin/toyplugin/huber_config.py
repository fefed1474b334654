"""Settings of the method; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from baselines.config import MethodConfig, require

if TYPE_CHECKING:
    from baselines.base import Method, World


@dataclass(frozen=True, kw_only=True)
class HuberConfig(MethodConfig):
    """Supervised fine-tuning that forgives outliers.

    Attributes:
        delta: Errors above it count linearly.
    """

    kind: ClassVar[str] = "huber"
    title: ClassVar[str] = "Huber SFT"
    code: ClassVar[tuple[str, ...]] = (
        "baselines.flow",
        "baselines.flow_matching",
        "toyplugin.huber",
    )

    delta: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require(self.delta > 0, "delta", self.delta, "use a positive number")

    @override
    def build(self, world: World) -> Method:
        from toyplugin.huber import Huber

        return Huber(self, schedule=world.schedule)

    @override
    def forward_equivalents(self) -> float:
        return 3.0  # a forward, and a backward of two

    @override
    def forwards_with_gradient(self) -> float:
        return 1.0
