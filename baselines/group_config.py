"""Settings that methods share which roll out groups of images; imports no framework."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from typing_extensions import override

from baselines.config import (
    ADDRESS_IF_SET,
    MethodConfig,
    require,
    require_at_least,
    require_guidance,
    require_positive,
)


@dataclass(frozen=True, kw_only=True)
class GroupConfig(MethodConfig):
    """A method that makes several images of a prompt and asks a reward about them.

    Attributes:
        group_size: Images a prompt in a rollout (TRL: ``num_generations``). Published 24.
        num_inference_steps: Solver steps T of a rollout. Flow-GRPO publishes 10.
        guidance_scale: CFG weight of a rollout; 1.0 = none. Flow-GRPO publishes 4.5.
        updates_per_collection: Optimiser updates that share one rollout. Flow-GRPO publishes 2.
        rollout_batch_size: Rows that a rollout puts through the model together; null takes those
            of a micro-batch, and the first ratios are exactly 1. Another batch size may round
            differently: ``train/first_ratio_deviation`` and ``train/first_clip_fraction`` of
            Flow-GRPO then say by how much, and should stay far below ``clip_range`` and 0.
    """

    trains_on: ClassVar[Literal["images", "prompts"]] = "prompts"
    needs_reward: ClassVar[bool] = True

    group_size: int = 24
    num_inference_steps: int = 10
    guidance_scale: float = 4.5
    updates_per_collection: int = 2
    # Measured on the laboratory's model, one thread of a busy CPU, float32: a collection of 64 rows
    # takes 6.6 s with 4 rows a forward and 4.1 s with 32, and no first ratio differs from 1.
    rollout_batch_size: int | None = field(default=None, metadata=ADDRESS_IF_SET)

    def __post_init__(self) -> None:
        require_guidance(self.guidance_scale)
        require(self.group_size >= 2, "group_size", self.group_size, "a group needs 2 or more")
        require_at_least(self, 2, "num_inference_steps")
        require_at_least(self, 1, "updates_per_collection")
        if self.rollout_batch_size is not None:
            require_at_least(self, 1, "rollout_batch_size")

    @property
    def branches(self) -> int:
        """Forwards of a guided velocity: with the prompt, and without."""
        return 1 if self.guidance_scale == 1 else 2

    @property
    def rollout_forwards(self) -> int:
        """Model evaluations of a collection, a row."""
        return self.branches * self.num_inference_steps


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(GroupConfig):
    """A method that trains on some images of each group.

    Attributes:
        num_inference_steps: Solver steps of a rollout. flow_grpo 40.
        updates_per_collection: Optimiser updates that share one rollout: 1.
    """

    num_inference_steps: int = 40
    updates_per_collection: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        # Rows are dealt to updates before they are judged, and one could get none to train on.
        updates = self.updates_per_collection
        require(updates == 1, "updates_per_collection", updates, f"{self.title} takes 1")


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig(GroupConfig):
    """A method that trains every image by how much it beats its group.

    Attributes:
        advantage_clip: Advantages are clipped to plus or minus this. Published 5 by Flow-GRPO and
            DiffusionNFT.
        global_std: Divide by the spread of all rewards of a collection, not of the group's (TRL:
            ``scale_rewards`` "batch" or "group"). Published true.
        skip_zero_std_groups: Leave groups whose rewards are all equal out of loss and weight.
        kl_coeff: Weight of the distance to the reference model (TRL: ``beta``).
    """

    advantage_clip: float = 5.0
    global_std: bool = True
    skip_zero_std_groups: bool = False
    kl_coeff: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "kl_coeff")
        require_positive(self, "advantage_clip")

    @property
    @override
    def needs_reference(self) -> bool:
        return self.kl_coeff > 0


@dataclass(frozen=True, kw_only=True)
class ForwardProcessConfig(AdvantageConfig):
    """A method that noises its own images anew, and so needs no likelihood of its sampler.

    The old policy, an average of the trained weights, moves after the updates of every collection:
    ``min(old_rate max(updates - old_flat, 0), old_hold)`` of it stays.

    Attributes:
        guidance_scale: CFG weight of rollout and training. Published 1.
        updates_per_collection: Optimiser updates that share one rollout. Published 1.
        old_flat: Updates after which the old policy begins to lag behind.
        old_rate: By how much more of it stays with every update from there on.
        old_hold: Share that stays in the end.
    """

    guidance_scale: float = 1.0
    updates_per_collection: int = 1
    old_flat: int = 0
    old_rate: float = 0.001
    old_hold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "old_flat", "old_rate")
        require(0 <= self.old_hold < 1, "old_hold", self.old_hold, "use a share in [0, 1)")

    @property
    @abc.abstractmethod
    def num_trained_levels(self) -> int:
        """Levels at which every image is trained."""

    @property
    def collected_forwards(self) -> int:
        """Evaluations at trained levels that a collection makes, a row and branch."""
        return 0

    @override
    def forward_equivalents(self) -> float:
        # A forward, a backward of two, and a forward of the old policy and of the reference.
        a_level = 3 + self.keeps_old_policy + self.needs_reference
        trained = a_level * self.num_trained_levels + self.collected_forwards
        return float(self.rollout_forwards + self.branches * trained)

    @override
    def forwards_with_gradient(self) -> float:
        return float(self.branches * self.num_trained_levels)

    @override
    def rows_with_graph(self, rows: int) -> int:
        return self.branches * rows

    @property
    @override
    def latents_held(self) -> int:
        # The image and a noise a level, once of the collection and once of its micro-batches.
        return 2 * (self.num_trained_levels + 1) + 4
