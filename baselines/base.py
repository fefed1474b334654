"""What a post-training method is, and what the one loop (``trainer.PostTrainer``) asks of it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from baselines.rewards.base import ImagesReward
from evaluators.devices import on_device

Condition = Mapping[str, Tensor]
"""What a prompt becomes for the model: named tensors whose first axis is the batch."""

# Not one generator a batch: neither batch size, accumulation, process count nor an interruption
# changes what a row draws.
Generators = Sequence[torch.Generator]
"""One a row, seeded by (seed, position in the training stream)."""


class VelocityModel(Protocol):
    """Predicts d latents / d sigma; sigma = 1 is noise.

    All that methods see of a model, so that the same code trains SD3.5-Medium and a
    two-dimensional toy.
    """

    def __call__(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity of ``latents``, (B, ...), at ``sigma``, (B,). -> as ``latents``."""


class Schedule(Protocol):
    """Noise levels of a model, which may depend on the size of the image.

    Shapes are of one row's latents, e.g. (16, 64, 64).
    """

    def shift(self, shape: Sequence[int]) -> float:
        """How far levels of training lean to noise; SD3.5-M: 3.0, and 1 is not at all."""

    def training_sigmas(self, t: Tensor, shape: Sequence[int]) -> Tensor:
        """Levels of training times (B,), 1 = noise. -> (B,), in (0, 1]."""

    def sigma_max(self, shape: Sequence[int]) -> float:
        """Second level of training's grid, whose first, 1, is a pole of ``stochastic_step``."""

    def sampling_sigmas(self, num_inference_steps: int, shape: Sequence[int]) -> Tensor:
        """Levels that sampling visits, from 1 (noise) to 0. -> (num_inference_steps + 1,)."""


@dataclass(frozen=True)
class Policies:
    """The models that a method may ask, of which one is trained.

    Attributes:
        trained: As it is now; alone in having gradients.
        old: An average of it that moves once a collection, if the method says how
            (``old_decay``). It shares its place with the trained one: each call exchanges weights.
        reference: The model that training started from, if the method compares with it.
    """

    trained: VelocityModel
    old: VelocityModel | None = None
    reference: VelocityModel | None = None


@dataclass(frozen=True)
class Batch:
    """Rows that travel together.

    Attributes:
        tensors: Named tensors, batch first. ``x0`` (SFT, SOAR) are scaled clean latents.
        condition: The prompts' condition.
        negative_condition: The empty prompt's condition, already expanded to the batch.
        prompts: The prompts as text.
        columns: Other columns of the data set, a list each (a reward may want them).
        positions: Of the rows in the stream.
        parts: In a collection, rows that go through the model together, which bounds memory; where
            there are none, all of them.
        update: Of the updates that share a collection, which one these rows are of.
    """

    tensors: Mapping[str, Tensor]
    condition: Condition
    negative_condition: Condition
    prompts: Sequence[str]
    columns: Mapping[str, Sequence[object]] = field(default_factory=dict)
    positions: Sequence[int] = ()
    parts: Sequence[Sequence[int]] = ()
    update: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def select(self, rows: Sequence[int]) -> Batch:
        """The given rows, in the given order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        places = {device: on_device(index, device) for device in self._devices()}
        # The empty prompt's rows are copied, too: of one row seen many times linear layers take
        # another kernel, which rounds differently.
        selected = self._each_tensor(lambda value: value[places[value.device]])
        return replace(
            selected,
            prompts=[self.prompts[i] for i in rows],
            columns={name: [column[i] for i in rows] for name, column in self.columns.items()},
            positions=[self.positions[i] for i in rows] if self.positions else (),
            parts=(),
        )

    def _devices(self) -> set[torch.device]:
        groups = (self.tensors, self.condition, self.negative_condition)
        return {value.device for group in groups for value in group.values()}

    # accelerate moves, and torch's loader pins, whatever has a method of that name; neither looks
    # into a dataclass by itself.
    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """The same rows on a device."""
        return self._each_tensor(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same rows where a GPU fetches them from."""
        return self._each_tensor(lambda value: value.pin_memory())

    def _each_tensor(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def changed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: change(value) for name, value in tensors.items()}

        return replace(
            self,
            tensors=changed(self.tensors),
            condition=changed(self.condition),
            negative_condition=changed(self.negative_condition),
        )

    def with_tensors(self, **tensors: Tensor) -> Batch:
        """The same rows with more (or replaced) tensors."""
        return replace(self, tensors={**self.tensors, **tensors})


@dataclass(frozen=True)
class LossOutput:
    """One term of a loss.

    Attributes:
        loss_sum: () sum over items; the loop divides by the global weight.
        metrics: Detached sums over items, divided like the loss before they are logged.
        is_last: Whether no other term of the batch follows; if it is said, processes add up
            gradients while the backward of this one still runs.
    """

    loss_sum: Tensor
    metrics: Mapping[str, Tensor]
    is_last: bool = False


@dataclass(frozen=True)
class Collected:
    """What a collection phase gives: rows ready for ``losses``, and what is worth logging."""

    batch: Batch
    metrics: Mapping[str, float] = field(default_factory=dict)
    reward_calls: int = 0


@dataclass(frozen=True, kw_only=True)
class World:
    """What a method is told of the model, the reward and the processes around it.

    Attributes:
        schedule: The model's noise levels.
        latent_shape: Of one row, e.g. (16, 64, 64).
        reward: ``reward(prompts, images, columns)``, one number a row; null for methods that ask
            for none.
        decode: Images, for the reward, of latents at sigma 0, (B, ...); by default the latents.
        is_reward_elsewhere: Whether the reward computes on another device than the model or in
            another process, so that both can work at once.
        gather: Concatenates a tensor of all processes in order of rank, which hold as many rows.
        rank: Of this process in ``gather``.
        generator_at: A fresh generator of a position in the stream, as ``collect`` is given them.
    """

    schedule: Schedule
    latent_shape: tuple[int, ...]
    reward: ImagesReward | None = None
    decode: Callable[[Tensor], Any] = lambda latents: latents
    is_reward_elsewhere: bool = False
    gather: Callable[[Tensor], Tensor] = lambda local: local
    rank: int = 0
    generator_at: Callable[[int], torch.Generator] = lambda at: torch.Generator().manual_seed(at)

    def sampling_sigmas(self, num_inference_steps: int) -> Tensor:
        """Levels of a rollout, from 1 (noise) to 0. -> (num_inference_steps + 1,)."""
        return self.schedule.sampling_sigmas(num_inference_steps, self.latent_shape)


class Method(abc.ABC):
    """A post-training method: pure functions of (policies, batch).

    It never logs, never calls backward, and draws from nothing but the generators of ``collect``
    and those that its world has of other rows.
    """

    #: Optimiser updates that share one collection phase (rollouts of Flow-GRPO); SFT and SOAR: 1.
    updates_per_collection: int = 1
    #: Consecutive rows of the stream that hold the same prompt (Flow-GRPO's group).
    group_size: int = 1
    #: Rows of a collection that go through the model together; null: those that training puts
    #: through it together, so that equal batches give equal bits.
    rollout_batch_size: int | None = None
    #: Whether ``losses`` compares with the base model (a KL term); full fine-tuning keeps a copy.
    needs_reference: bool = False
    #: Share of the old policy that stays when a collection's updates are over, by their number
    #: since the start; null: there is no old policy.
    old_decay: Callable[[int], float] | None = None
    #: Whether ``collect`` asks the model, or may leave rows without a weight. Without, rows are
    #: collected while the update before them is computed.
    needs_rollout: bool = True

    @abc.abstractmethod
    def collect(self, policies: Policies, batch: Batch, generators: Generators) -> Collected:
        """Prepare rows for training: draw noise, or roll out and score. Runs under ``no_grad``."""

    @abc.abstractmethod
    def weight(self, batch: Batch) -> float:
        """Number of items the loss of ``batch`` sums over; known before the loss is computed."""

    # In terms, whose gradients add up to the whole: the loop calls backward on each and so frees
    # its graph before the next is built.
    @abc.abstractmethod
    def losses(self, policies: Policies, batch: Batch) -> Iterator[LossOutput]:
        """Terms of the loss of collected rows."""

    @abc.abstractmethod
    def forward_equivalents(self, batch: Batch) -> float:
        """Model evaluations spent on ``batch`` in all; a backward counts as two."""
