"""Settings of DiffusionNFT; imports no framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from baselines.config import require, require_positive
from baselines.group_config import ForwardProcessConfig

if TYPE_CHECKING:
    from baselines.base import Method, World


@dataclass(frozen=True, kw_only=True)
class DiffusionNftConfig(ForwardProcessConfig):
    """DiffusionNFT (arXiv:2509.16117); defaults are those of its SD3.5-M runs.

    Attributes:
        beta: How far the implicit policies lie from the old one, in units of the trained policy's
            distance. Published 1, and 0.1 for OCR and several rewards.
        train_timestep_fraction: Share of the rollout's levels at which an image is trained.
            Published 0.99: 9 of 10.
    """

    kind: ClassVar[str] = "diffusion_nft"
    code: ClassVar[tuple[str, ...]] = (
        "baselines.diffusion_nft",
        "baselines.flow",
        "baselines.forward_process",
        "baselines.group_config",
        "baselines.group_method",
        "baselines.groups",
        "baselines.judged_rollouts",
        "baselines.loop.old_policy",
    )
    title: ClassVar[str] = "DiffusionNFT"

    beta: float = 1.0
    train_timestep_fraction: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "beta")
        fraction = self.train_timestep_fraction
        require(0 < fraction <= 1, "train_timestep_fraction", fraction, "use a share in (0, 1]")

    @override
    def build(self, world: World) -> Method:
        method: Method = resolve_name("baselines.diffusion_nft:DiffusionNft")(self, world)
        return method

    @property
    @override
    def keeps_old_policy(self) -> bool:
        return True

    @property
    @override
    def num_trained_levels(self) -> int:
        # The small number keeps e.g. 100 * 0.29 = 28.999999999999996 from losing a level.
        return max(1, math.floor(self.num_inference_steps * self.train_timestep_fraction + 1e-9))
