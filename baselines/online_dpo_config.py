"""Settings of online DPO; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from baselines.config import require_positive
from baselines.group_config import SelectionConfig

if TYPE_CHECKING:
    from baselines.base import Method, World


@dataclass(frozen=True, kw_only=True)
class OnlineDpoConfig(SelectionConfig):
    """Diffusion-DPO (Wallace et al. 2023) on flow matching, between images of the model's own.

    Attributes:
        beta: Strength of the tie to the reference model. flow_grpo 100.
    """

    kind: ClassVar[str] = "online_dpo"
    code: ClassVar[tuple[str, ...]] = (
        "baselines.flow",
        "baselines.flow_matching",
        "baselines.group_config",
        "baselines.group_method",
        "baselines.groups",
        "baselines.judged_rollouts",
        "baselines.online_dpo",
    )
    title: ClassVar[str] = "Online DPO"

    beta: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "beta")

    @override
    def build(self, world: World) -> Method:
        method: Method = resolve_name("baselines.online_dpo:OnlineDpo")(self, world)
        return method

    @property
    @override
    def needs_reference(self) -> bool:
        return True

    @override
    def forward_equivalents(self) -> float:
        # Of both images of a pair a forward, a backward of two, and the reference's forward.
        return self.rollout_forwards + 4 * self.forwards_with_gradient()

    @override
    def forwards_with_gradient(self) -> float:
        return 2 / self.group_size

    @override
    def rows_with_graph(self, rows: int) -> int:
        # A pair has one row, which holds the other image beside its own.
        return 2 * rows

    @property
    @override
    def latents_held(self) -> int:
        # Image, noise and the other image, twice, and the images of all processes.
        return 8
