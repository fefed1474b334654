"""Settings of Flow-GRPO; imports no framework."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from baselines.config import ADDRESS_IF_SET, require, require_choice, require_positive
from baselines.group_config import AdvantageConfig

if TYPE_CHECKING:
    from baselines.base import Method, World

KlForm = Literal["published", "exact"]
PolicyStep = Literal["cps"]


@dataclass(frozen=True, kw_only=True)
class FlowGrpoConfig(AdvantageConfig):
    """Flow-GRPO (arXiv:2505.05470); defaults are those of its SD3.5-M runs on 512 px images.

    Attributes:
        guidance_scale: CFG weight in the rollout *and* in training; 1.0 = CFG-free training.
            Published 4.5.
        noise_level: Scale a of the stochastic steps. Published 0.7.
        step_kind: Null is the published stochastic step; ``cps`` keeps the path's coefficients. The
            log-probability of either is that of its Gaussian.
        clip_range: c of the clipped ratio (TRL: ``epsilon``). Published 1e-4.
        same_latents: Whether the images of a group start from the same noise, that of its first
            row. Published false, true for CLIPScore.
        skip_zero_std_groups: Leave groups whose rewards are all equal out of loss and weight.
        kl_coeff: Weight of the KL to the reference model (TRL: ``beta``). Published 0.04 for
            GenEval and OCR, 0.02 for CLIPScore, 0.01 for PickScore.
        kl_form: "published" divides by twice the squared diffusion coefficient; "exact" is the KL
            of the two transitions. Of ``cps`` they are one.
        train_timestep_fraction: Share of the steps, from the noisy end, that are trained; unused
            with an SDE window. Published 0.99: 9 of 10.
        sde_window_size: Steps of a rollout that are stochastic and trained, ODE elsewhere; 0 = all.
            Published 3 (Flow-GRPO-Fast).
        sde_window_range: Steps, first and one past the last, within which each row's window is
            drawn. Published (0, num_inference_steps // 2).
    """

    kind: ClassVar[str] = "flow_grpo"
    code: ClassVar[tuple[str, ...]] = (
        "baselines.flow",
        "baselines.flow_grpo",
        "baselines.group_config",
        "baselines.group_method",
        "baselines.groups",
        "baselines.judged_rollouts",
    )
    title: ClassVar[str] = "Flow-GRPO"

    # One value for both: rollout and training are one policy, or the first ratio would not be 1.
    guidance_scale: float = 4.5
    noise_level: float = 0.7
    step_kind: PolicyStep | None = field(default=None, metadata=ADDRESS_IF_SET)
    # So small because the log-probability is a mean over latent elements, not a sum.
    clip_range: float = 1e-4
    skip_zero_std_groups: bool = True
    kl_coeff: float = 0.04
    # As the public code has it, so that published values of kl_coeff keep their meaning.
    kl_form: KlForm = "published"
    train_timestep_fraction: float = 0.99
    sde_window_size: int = 0
    sde_window_range: tuple[int, int] = (0, 5)
    same_latents: bool = field(default=False, metadata=ADDRESS_IF_SET)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("kl_form", self.kl_form, KlForm)
        require_positive(self, "noise_level", "clip_range")
        fraction = self.train_timestep_fraction
        require(0 < fraction <= 1, "train_timestep_fraction", fraction, "use a share in (0, 1]")
        self._check_window()
        if self.step_kind is not None:
            require_choice("step_kind", self.step_kind, PolicyStep)
            # Its noise is proportional to the level that it leads to, and has no density at 0.
            last = self.num_inference_steps - 1
            end = self.sde_window_range[1] if self.sde_window_size else self.num_trained_steps
            remedy = (
                f"leave the last step out of sde_window_range or train_timestep_fraction ({last})"
            )
            require(end <= last, "step_kind", self.step_kind, remedy)

    def _check_window(self) -> None:
        """Refuse a window beyond its range, and a range beyond the rollout."""
        size, window = self.sde_window_size, tuple(self.sde_window_range)
        require(size >= 0, "sde_window_size", size, "use 0 (every step) or more")
        if size == 0:
            return  # the range's default may then lie beyond a short rollout
        fits = len(window) == 2 and 0 <= window[0] < window[1] <= self.num_inference_steps
        remedy = f"use (first, one past the last) within 0..{self.num_inference_steps}"
        require(fits, "sde_window_range", window, remedy)
        length = window[1] - window[0]
        require(size <= length, "sde_window_size", size, f"sde_window_range holds {length} steps")

    @property
    def num_sde_steps(self) -> int:
        """Stochastic steps of a rollout."""
        return self.sde_window_size or self.num_inference_steps

    @property
    def num_trained_steps(self) -> int:
        """Steps of a rollout that enter the loss."""
        if self.sde_window_size:
            return self.sde_window_size
        # The small number keeps e.g. 100 * 0.29 = 28.999999999999996 from losing a step.
        return max(1, math.floor(self.num_inference_steps * self.train_timestep_fraction + 1e-9))

    @override
    def build(self, world: World) -> Method:
        method: Method = resolve_name("baselines.flow_grpo:FlowGrpo")(self, world)
        return method

    @override
    def forward_equivalents(self) -> float:
        # A forward, a backward of two, and the reference's forward.
        a_step = 4 if self.needs_reference else 3
        return float(self.rollout_forwards + self.branches * a_step * self.num_trained_steps)

    @override
    def forwards_with_gradient(self) -> float:
        return float(self.branches * self.num_trained_steps)

    @override
    def rows_with_graph(self, rows: int) -> int:
        # The gradient goes through the unconditional branch, too, as in the current public code
        # (that of July 2025 detached it).
        return self.branches * rows

    @property
    @override
    def latents_held(self) -> int:
        # The trained part of the path, once of the collection and once of its micro-batches.
        return 2 * (self.num_trained_steps + 1) + 4
