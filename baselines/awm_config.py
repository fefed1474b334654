"""Settings of advantage weighted matching; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from baselines.config import require, require_at_least, require_choice, require_positive
from baselines.group_config import ForwardProcessConfig

if TYPE_CHECKING:
    from baselines.base import Method, World

Weighting = Literal["uniform", "sigma", "sigma_squared", "huber", "ghuber"]


@dataclass(frozen=True, kw_only=True)
class AwmConfig(ForwardProcessConfig):
    """Advantage weighted matching (arXiv:2509.25050); defaults are Flow-Factory's for SD3.5-M.

    Attributes:
        group_size: Images a prompt in a rollout. Published 16.
        num_inference_steps: Solver steps of a rollout. Published 14.
        advantage_clip: Advantages are clipped to plus or minus this. Published 1.
        weighting: How the matching error becomes a log-probability.
        power: Of ``ghuber``, in (0, 1]; others do not use it. Published 0.25.
        num_levels: Levels of the rollout's schedule at which an image is trained. Published 6.
        clip_range: c of the clipped ratio. Published 1.
        ema_kl_coeff: Weight of the distance to the averaged policy; 0 keeps none. Published 1.
        old_rate: Growth of the average's share with every update. Published 0.3 in 1,000.
        old_hold: Share of the average that stays in the end. Published 0.3.
    """

    kind: ClassVar[str] = "awm"
    code: ClassVar[tuple[str, ...]] = (
        "baselines.awm",
        "baselines.flow",
        "baselines.forward_process",
        "baselines.group_config",
        "baselines.group_method",
        "baselines.groups",
        "baselines.judged_rollouts",
        "baselines.loop.old_policy",
    )
    title: ClassVar[str] = "AWM"

    group_size: int = 16
    num_inference_steps: int = 14
    advantage_clip: float = 1.0
    weighting: Weighting = "ghuber"
    power: float = 0.25
    num_levels: int = 6
    clip_range: float = 1.0
    ema_kl_coeff: float = 1.0
    old_rate: float = 3e-4
    old_hold: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("weighting", self.weighting, Weighting)
        require_at_least(self, 0, "ema_kl_coeff")
        require_positive(self, "clip_range")
        require(0 < self.power <= 1, "power", self.power, "use a number in (0, 1]")
        remedy = f"use one in 1..{self.num_inference_steps}, the steps of a rollout"
        is_there = 1 <= self.num_levels <= self.num_inference_steps
        require(is_there, "num_levels", self.num_levels, remedy)

    @override
    def build(self, world: World) -> Method:
        method: Method = resolve_name("baselines.awm:Awm")(self, world)
        return method

    @property
    @override
    def keeps_old_policy(self) -> bool:
        return self.ema_kl_coeff > 0

    @property
    @override
    def num_trained_levels(self) -> int:
        return self.num_levels

    @property
    @override
    def collected_forwards(self) -> int:
        return self.num_levels
