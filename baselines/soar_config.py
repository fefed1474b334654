"""Settings of SOAR; imports no framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from baselines.config import (
    ADDRESS,
    ADDRESS_IF_SET,
    NUM_TRAIN_TIMESTEPS,
    MethodConfig,
    StepKind,
    require,
    require_at_least,
    require_choice,
    require_dropout,
    require_guidance,
)

if TYPE_CHECKING:
    from baselines.base import Method, World


@dataclass(frozen=True, kw_only=True)
class SoarConfig(MethodConfig):
    """SOAR (arXiv:2604.12617); defaults are those of its public training command.

    Attributes:
        condition_dropout: As in ``SftConfig``.
        guidance_scale: CFG weight w of the rollout step; 1 = off. Published
            ``cfg_scale_sampling`` 4.5.
        num_inference_steps: Solver steps K; the rollout step spans 1 / K. Published 40.
        rollout_steps: Solver steps that a rollout takes, each 1 / K; the model is asked anew at
            each state after the first. Published 1.
        num_aux_points: Re-noised points N on each path. Published ``trajectory_length`` 6.
        num_rollout_paths: Paths M; path 0 is the ODE step, the others are stochastic. Published 1.
        aux_weight: Weight lambda of the auxiliary points; 0 is SFT. Published ``lambda_aux`` 1.
        step_kind: Kind of the stochastic steps. Published ``sde_rollout_type`` flow_sde.
        noise_scale: Scale a of the stochastic steps. Published ``sde_noise_scale`` 0.5.
        off_path: Whether auxiliary points start where the model's own step ends; false starts at
            the same level of the row's path: as many terms at the same levels, on states that no
            error of the model has moved. Published true.
        renoise: Whether auxiliary points are moved up towards the noise; false leaves the one point
            of each path at the step's end, and has none where that is the lowest level of the grid,
            at which the correction velocity is the step's error over a level of about 0. Published
            true.
        shared_noise: Whether they are moved towards the row's own noise; false draws an endpoint
            for each path ("fresh noise", paper's Table 3). Published true.
        aux_chunk: Auxiliary points of a row that share one forward and backward; null takes as many
            as the GPU's memory allows, and 1 on a CPU. Changes memory, speed and rounding only.
    """

    kind: ClassVar[str] = "soar"
    code: ClassVar[tuple[str, ...]] = (
        "baselines.flow",
        "baselines.flow_matching",
        "baselines.soar",
    )
    title: ClassVar[str] = "SOAR"

    condition_dropout: float = 0.0
    guidance_scale: float = 4.5
    num_inference_steps: int = 40
    num_aux_points: int = 6
    num_rollout_paths: int = 1
    aux_weight: float = 1.0
    step_kind: StepKind = "flow_sde"
    noise_scale: float = 0.5
    off_path: bool = field(default=True, metadata=ADDRESS_IF_SET)
    renoise: bool = field(default=True, metadata=ADDRESS_IF_SET)
    shared_noise: bool = field(default=True, metadata=ADDRESS_IF_SET)
    rollout_steps: int = field(default=1, metadata=ADDRESS_IF_SET)
    # One point's graph at a time: planning counts 285 MiB instead of 1,768.
    aux_chunk: int | None = field(default=1, metadata=ADDRESS)

    def __post_init__(self) -> None:
        require_dropout(self.condition_dropout)
        require_guidance(self.guidance_scale)
        require_choice("step_kind", self.step_kind, StepKind)
        # A finer step would fall into the same level of the training grid.
        steps, most = self.num_inference_steps, NUM_TRAIN_TIMESTEPS - 1
        require(1 <= steps <= most, "num_inference_steps", steps, f"use 1 to {most}")
        length = self.rollout_steps
        require(1 <= length <= steps, "rollout_steps", length, f"use 1 to {steps}, all of them")
        for name in ("num_aux_points", "num_rollout_paths", "aux_chunk"):
            value = getattr(self, name)
            valid = value is None or value >= 1
            require(valid, name, value, "use 1 or more; aux_weight=0 turns SOAR off")
        require_at_least(self, 0, "aux_weight", "noise_scale")
        self._check_switches()

    def _check_switches(self) -> None:
        """Refuse points that would all be the same one, and a switch without effect."""
        paths, points = self.num_rollout_paths, self.num_aux_points
        remedy = "off_path=false has one path, which takes no step: use 1"
        require(self.off_path or paths == 1, "num_rollout_paths", paths, remedy)
        remedy = "renoise=false makes all points of a path the same: use 1 and more aux_weight"
        require(self.renoise or points == 1, "num_aux_points", points, remedy)
        remedy = "renoise=false moves no point towards any noise: use true"
        require(self.renoise or self.shared_noise, "shared_noise", self.shared_noise, remedy)

    @property
    def points(self) -> int:
        """Auxiliary points of a row, over all paths; none that is not weighted is made."""
        return self.num_rollout_paths * self.num_aux_points if self.aux_weight > 0 else 0

    @property
    def points_at_once(self) -> int:
        """Auxiliary points of a row in one forward, where memory has not been asked."""
        return self.aux_chunk or 1

    @override
    def build(self, world: World) -> Method:
        method: Method = resolve_name("baselines.soar:Soar")(self, schedule=world.schedule)
        return method

    @override
    def forward_equivalents(self) -> float:
        if not (self.points and self.off_path):
            return 3.0 * (1 + self.points)
        # The first step reuses the main term's conditional velocity: guidance adds one forward.
        branches = 1 if self.guidance_scale == 1 else 2
        later = (self.rollout_steps - 1) * self.num_rollout_paths * branches
        return 3.0 * (1 + self.points) + branches - 1 + later

    @override
    def forwards_with_gradient(self) -> float:
        return 1.0 + self.points

    @override
    def rows_with_graph(self, rows: int) -> int:
        return rows * max(1, min(self.points_at_once, self.points))

    @override
    def by_memory(self) -> Sequence[SoarConfig]:
        if self.aux_chunk is not None:
            return (self,)
        return [replace(self, aux_chunk=count) for count in range(1, max(1, self.points) + 1)]
