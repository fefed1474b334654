"""Settings of the methods and of their optimisation.

Imports no framework, so that a wrong value is reported before anything heavy is loaded. Sources of
the defaults: SOAR = arXiv:2604.12617 and the README of Tencent-Hunyuan/HY-SOAR; Flow-GRPO =
arXiv:2505.05470 and the configurations of yifan123/flow_grpo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

StepKind = Literal["flow_sde", "cps", "sde", "simple"]
KlForm = Literal["published", "exact"]
Schedule = Literal["constant", "linear", "cosine"]
Optimizer = Literal["adamw", "adamw_8bit"]

#: Metadata of a field that no address holds: it changes speed, memory or words, and no number.
ADDRESS: Mapping[str, bool] = {"address": False}
#: Levels of the training grid of Stable Diffusion 3's scheduler.
NUM_TRAIN_TIMESTEPS = 1000


def _require(valid: bool, name: str, value: object, remedy: str) -> None:
    """Refuse a value, saying what would be accepted."""
    if not valid:
        raise ValueError(f"{name} = {value!r} is not possible: {remedy}")


def _require_choice(name: str, value: str, choices: object) -> None:
    """Refuse a value that is not one of a ``Literal``'s."""
    allowed = get_args(choices)
    _require(value in allowed, name, value, f"choose one of {', '.join(allowed)}")


def _require_guidance(value: float) -> None:
    """Guidance below 1 would silently be sampled without guidance by diffusers' pipeline."""
    _require(1 <= value < math.inf, "guidance_scale", value, "use 1.0 (no guidance) or more")


def _require_dropout(value: float) -> None:
    """A probability below 1: at 1 no prompt would ever be seen."""
    _require(0 <= value < 1, "condition_dropout", value, "use a probability in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning.

    Attributes:
        condition_dropout: Probability, drawn for each sample, of training on the empty prompt.
            0 by default, as in the published runs' command line.
    """

    condition_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require_dropout(self.condition_dropout)


@dataclass(frozen=True, kw_only=True)
class SoarConfig:
    """SOAR (arXiv:2604.12617); defaults are those of its public training command.

    Attributes:
        condition_dropout: As in ``SftConfig``.
        guidance_scale: CFG weight w of the rollout step; 1 = off. Published
            ``cfg_scale_sampling`` 4.5.
        num_inference_steps: Solver steps K; the rollout step spans 1 / K. Published 40.
        num_aux_points: Re-noised points N on each path. Published ``trajectory_length`` 6.
        num_rollout_paths: Paths M; path 0 is the ODE step, the others are stochastic. Published 1.
        aux_weight: Weight lambda of the auxiliary points; 0 is SFT. Published ``lambda_aux`` 1.
        step_kind: Kind of the stochastic steps. Published ``sde_rollout_type`` flow_sde.
        noise_scale: Scale a of the stochastic steps. Published ``sde_noise_scale`` 0.5.
        aux_chunk: Auxiliary points of a row that share one forward and backward. Changes memory and
            speed only. 1 holds the graph of one point at a time (planning: 285 MiB for 1,768).
    """

    condition_dropout: float = 0.0
    guidance_scale: float = 4.5
    num_inference_steps: int = 40
    num_aux_points: int = 6
    num_rollout_paths: int = 1
    aux_weight: float = 1.0
    step_kind: StepKind = "flow_sde"
    noise_scale: float = 0.5
    aux_chunk: int = field(default=1, metadata=ADDRESS)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require_dropout(self.condition_dropout)
        _require_guidance(self.guidance_scale)
        _require_choice("step_kind", self.step_kind, StepKind)
        # A finer step would fall into the same level of the training grid.
        _require(
            1 <= self.num_inference_steps < NUM_TRAIN_TIMESTEPS,
            "num_inference_steps",
            self.num_inference_steps,
            f"use 1 to {NUM_TRAIN_TIMESTEPS - 1}",
        )
        for name in ("num_aux_points", "num_rollout_paths", "aux_chunk"):
            value = getattr(self, name)
            _require(value >= 1, name, value, "use 1 or more; aux_weight=0 turns SOAR off")
        for name in ("aux_weight", "noise_scale"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, name, value, "use 0 or more")


@dataclass(frozen=True, kw_only=True)
class FlowGrpoConfig:
    """Flow-GRPO (arXiv:2505.05470); defaults are those of its SD3.5-M runs on 512 px images.

    Where TRL's GRPO has a name for the same thing it stands beside ours.

    Attributes:
        group_size: Images a prompt in a rollout (TRL: ``num_generations``). Published 24.
        num_inference_steps: Solver steps T of a rollout. Published 10.
        guidance_scale: CFG weight in the rollout *and* in training: the two are one policy, or the
            first ratio would not be 1. 1.0 = CFG-free training. Published 4.5.
        noise_level: Scale a of the stochastic steps. Published 0.7.
        clip_range: c of the clipped ratio (TRL: ``epsilon``). Published 1e-4, small because the
            log-probability is a mean over elements.
        advantage_clip: Advantages are clipped to plus or minus this. Published ``adv_clip_max`` 5.
        global_std: Divide by the spread of all rewards of a collection, not of the group's (TRL:
            ``scale_rewards`` "batch" or "group"). Published true.
        skip_zero_std_groups: Leave groups whose rewards are all equal out of the loss and of
            its weight.
        kl_coeff: Weight of the KL to the reference model (TRL: ``beta``). Published 0.04 for
            GenEval and OCR, 0.01 for PickScore.
        kl_form: "published" divides by twice the squared diffusion coefficient, so that published
            weights keep their meaning; "exact" is the KL of the two transitions.
        train_timestep_fraction: Share of the steps, from the noisy end, that are trained; unused
            with an SDE window. Published 0.99: 9 of 10.
        sde_window_size: Steps of a rollout that are stochastic and trained, ODE elsewhere; 0 = all.
            Published 3 (Flow-GRPO-Fast).
        sde_window_range: Steps, first and one past the last, within which each row's window lies;
            where is drawn. Published (0, num_inference_steps // 2).
        updates_per_collection: Optimiser updates that share one rollout. Published 2.
    """

    group_size: int = 24
    num_inference_steps: int = 10
    guidance_scale: float = 4.5
    noise_level: float = 0.7
    clip_range: float = 1e-4
    advantage_clip: float = 5.0
    global_std: bool = True
    skip_zero_std_groups: bool = True
    kl_coeff: float = 0.04
    kl_form: KlForm = "published"
    train_timestep_fraction: float = 0.99
    sde_window_size: int = 0
    sde_window_range: tuple[int, int] = (0, 5)
    updates_per_collection: int = 2

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require_guidance(self.guidance_scale)
        _require_choice("kl_form", self.kl_form, KlForm)
        _require(self.group_size >= 2, "group_size", self.group_size, "a group needs 2 or more")
        steps = self.num_inference_steps
        _require(steps >= 2, "num_inference_steps", steps, "use 2 or more")
        for name in ("noise_level", "clip_range", "advantage_clip"):
            value = getattr(self, name)
            _require(0 < value < math.inf, name, value, "use a positive number")
        _require(0 <= self.kl_coeff < math.inf, "kl_coeff", self.kl_coeff, "use 0 or more")
        fraction = self.train_timestep_fraction
        _require(0 < fraction <= 1, "train_timestep_fraction", fraction, "use a share in (0, 1]")
        updates = self.updates_per_collection
        _require(updates >= 1, "updates_per_collection", updates, "use 1 or more")
        self._check_window()

    def _check_window(self) -> None:
        """The window fits its range, and its range the rollout."""
        size, window = self.sde_window_size, tuple(self.sde_window_range)
        _require(size >= 0, "sde_window_size", size, "use 0 (every step) or more")
        if size == 0:
            return
        fits = len(window) == 2 and 0 <= window[0] < window[1] <= self.num_inference_steps
        remedy = f"use (first, one past the last) within 0..{self.num_inference_steps}"
        _require(fits, "sde_window_range", window, remedy)
        length = window[1] - window[0]
        _require(size <= length, "sde_window_size", size, f"sde_window_range holds {length} steps")

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


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW; defaults are SOAR's published ones (full fine-tuning).

    Attributes:
        learning_rate: Peak. SOAR 2e-5; Flow-GRPO 3e-4 (LoRA).
        weight_decay: Decoupled. SOAR 1e-2; Flow-GRPO 1e-4.
        max_grad_norm: The gradient's norm is clipped to it. Both publish 1.0.
        betas: Decay of the two moments. Both publish (0.9, 0.999).
        warmup_steps: Optimiser updates of linear warm-up. Both publish 0.
        schedule: Learning rate after the warm-up. Both publish constant.
        optimizer: ``adamw``, or ``adamw_8bit`` (bitsandbytes) whose moments take a quarter of the
            memory. Both publish adamw.
    """

    learning_rate: float = 2e-5
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    optimizer: Optimizer = "adamw"

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require_choice("schedule", self.schedule, Schedule)
        _require_choice("optimizer", self.optimizer, Optimizer)
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            _require(0 < value < math.inf, name, value, "use a positive number")
        decay = self.weight_decay
        _require(0 <= decay < math.inf, "weight_decay", decay, "use 0 or more")
        valid = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _require(valid, "betas", self.betas, "use two numbers in [0, 1)")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "use 0 or more")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters, Gaussian initialisation; defaults are Flow-GRPO's.

    Attributes:
        rank: Of each adapter. Published 32.
        alpha: The adapter's output is scaled by alpha / rank. Published 64.
        target_modules: Suffixes of the adapted linear layers. Published: all of the attention's.
    """

    rank: int = 32
    alpha: float = 64.0
    target_modules: tuple[str, ...] = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require(self.rank >= 1, "rank", self.rank, "use 1 or more")
        _require(0 < self.alpha < math.inf, "alpha", self.alpha, "use a positive number")
        _require(
            len(self.target_modules) > 0, "target_modules", self.target_modules, "name a layer"
        )


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Average of the trained weights; defaults are Flow-GRPO's.

    Attributes:
        decay: Share of the average that is kept at each averaging. Published 0.9.
        every: Optimiser updates between two averagings. Published 8.
    """

    decay: float = 0.9
    every: int = 8

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        _require(0 <= self.decay < 1, "decay", self.decay, "use a number in [0, 1)")
        _require(self.every >= 1, "every", self.every, "use 1 or more")
