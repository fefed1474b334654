"""The one loop: ``transformers.Trainer`` driving any ``Method``."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object, save_fsdp_optimizer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from typing_extensions import override

from baselines.base import Batch, Collected, Condition, Method, Policies, VelocityModel
from baselines.config import TrainingConfig
from baselines.loop import sharding
from baselines.loop.callbacks import LogWindow
from baselines.loop.checkpoints import TRANSFORMER_DIR, CheckpointWriter, checkpoint_path
from baselines.loop.disk import writing
from baselines.loop.ledger import LOSS, Ledger, LossWindow, Share
from baselines.loop.old_policy import OldPolicy
from baselines.loop.reduction import Reduction, broadcast
from baselines.loop.stream import (
    CollectionSampler,
    StreamItem,
    TrainingStream,
    collate,
    micro_batches,
    row_generator,
)
from baselines.loop.velocity import VelocityOf, casts_kept, in_autocast, reference_of
from baselines.loop.weights import held_transformer, load_transformer, on_host
from evaluators.devices import on_device

OnLog = Callable[[int, Mapping[str, float]], None]


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is no longer a number."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished run cost: its updates, and the ``Counters`` at its end."""

    optimizer_steps: int
    images_seen: int
    forward_equivalents: float
    reward_calls: int
    seconds: float


@dataclass
class _Update:
    """An update whose numbers are still on the device.

    ``share`` lacks its ``sums``; ``loss`` and ``weight``, () in float64, are of all processes, and
    ``users`` count the processes that used each trained parameter, where there are several.
    """

    share: Share
    sums: Mapping[str, Tensor]
    loss: Tensor
    weight: Tensor
    users: Tensor


def _divided(value: Tensor | float, weight: Tensor) -> Tensor:
    """``value / weight``; 0 where nothing has a weight."""
    return torch.where(weight > 0, value / weight, 0.0)


class PostTrainer(Trainer):
    """Trains a transformer with a ``Method``; one Trainer step is one optimiser update.

    ``model`` is from ``prepare_transformer``, ``arguments`` from ``training_arguments``; the rest
    is as in ``post_train``.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        *,
        method: Method,
        stream: TrainingStream,
        training: TrainingConfig,
        velocity_of: VelocityOf,
        negative_condition: Condition,
        on_log: OnLog,
        writer: CheckpointWriter,
        callbacks: Sequence[TrainerCallback] = (),
        old_policy: OldPolicy | None = None,
    ) -> None:
        super().__init__(model, arguments, train_dataset=stream, callbacks=list(callbacks))
        self.remove_callback(PrinterCallback)
        self.add_callback(LogWindow(self._reopen_window))
        if self.is_deepspeed_enabled:
            raise ValueError(
                "DeepSpeed is not supported by this loop; use launcher.parallelism=ddp"
            )
        self.transformer = model
        self.method = method
        self.stream = stream
        self.training = training
        self.velocity_of = velocity_of
        self.negative_condition = {
            name: on_device(value, self.args.device) for name, value in negative_condition.items()
        }
        self.on_log = on_log
        self.writer = writer
        self.ledger, self._losses_before = Ledger(), LossWindow()
        # Made before a checkpoint is loaded: the reference is the model that training started from.
        self._reference: VelocityModel | None = None
        if method.needs_reference:
            self._reference = reference_of(model, self.accelerator, velocity_of)
        self._old_policy = old_policy
        self._updates: deque[list[Batch]] = deque()
        self._rollout: Mapping[str, float] = {}
        self._reward_calls = 0
        self._inputs: list[Batch] | None = None
        self._iterator: Iterator[list[Batch]] = iter(())
        self._reduction: Reduction | None = None
        self._update: _Update
        self._pending: list[tuple[Share, float]] = []

    @override
    def _wrap_model(
        self, model: nn.Module, training: bool = True, dataloader: Any = None
    ) -> nn.Module:
        if self.is_fsdp_enabled:
            wrapped: nn.Module = super()._wrap_model(model, training, dataloader)
            return wrapped
        # As for evaluation: otherwise accelerate would put DistributedDataParallel around it.
        prepared: nn.Module = self.accelerator.prepare_model(model, evaluation_mode=True)
        if self.args.world_size > 1:
            broadcast(prepared)
        return prepared

    @override
    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            sharding.enable(self.accelerator.state, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    @override
    def get_train_dataloader(self) -> DataLoader[StreamItem]:
        sampler = CollectionSampler(
            num_updates=self.training.steps,
            rows_per_rank=self.training.rows_per_process(self.args.world_size),
            world_size=self.args.world_size,
            updates_per_collection=self.method.updates_per_collection,
        )
        # Rows of different shapes cannot be stacked: they come as micro-batches of one shape each.
        size = self.training.micro_batch_size or sampler.rows_per_rank
        loader = DataLoader(
            self.stream,
            batch_sampler=sampler,
            collate_fn=partial(collate, size=None if self.stream.shapes is None else size),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[StreamItem] = self.accelerator.prepare(loader)
        return prepared

    def _collect(self, policies: Policies, batches: Sequence[Batch]) -> None:
        """Run a collection phase and queue its updates, each as a list of micro-batches."""
        if self.stream.shapes is not None:
            assert self.method.updates_per_collection == 1, "rollouts have one shape"
            self._updates.append([self._collected(policies, batch).batch for batch in batches])
            return
        (batch,) = batches
        size = self.training.micro_batch_size or len(batch)
        layout = micro_batches(len(batch), self.method.updates_per_collection, size)
        together = self.method.rollout_batch_size
        parts = list(itertools.chain.from_iterable(layout))
        if together is not None:
            (parts,) = micro_batches(len(batch), 1, together)
        collected = self._collected(policies, replace(batch, parts=parts))
        self._rollout, self._reward_calls = collected.metrics, collected.reward_calls
        for number, update in enumerate(layout):
            rows = replace(collected.batch, update=number)
            self._updates.append([rows.select(part) for part in update])

    @torch.no_grad()
    def _collected(self, policies: Policies, batch: Batch) -> Collected:
        """Rows as the method prepares them, each with its own generator."""
        negative = {
            name: value.expand(len(batch), *value.shape[1:])
            for name, value in self.negative_condition.items()
        }
        generators = [row_generator(self.args.seed, position) for position in batch.positions]
        rows = replace(batch, negative_condition=negative)
        collected = self.method.collect(policies, rows, generators)
        assert len(collected.batch) == len(batch), "a collection keeps its rows and their order"
        return collected

    @override
    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Forward and backward of one update. -> the loss over all processes, ()."""
        self.ledger.tick()
        model.train()
        policies = self._policies(model)
        if not self._updates:
            # Apart from the update's casts: older torch keeps those of no_grad without a graph, and
            # the weights would get no gradient (pytorch/pytorch#165068).
            with self._casts_kept():
                self._collect(policies, cast(list[Batch], inputs))
        # Accumulated here, not by the Trainer, whose num_items_in_batch knows no method's weight:
        # the loss is divided by that weight, summed over all micro-batches and processes first.
        micro_batches = self._updates.popleft()
        weight, useful = self._weigh(micro_batches)
        with self._casts_kept():
            sums = self._backward(policies, useful, weight)
        share = self._share(micro_batches)
        self._look_ahead(policies)
        users = self._add_up_gradients()
        # After the gradients in every process, wherever their sums began.
        loss = self._summed(sums[LOSS].double())
        self._update = _Update(share, sums, _divided(loss, weight), weight, users)
        return self._update.loss.float()

    def _policies(self, model: nn.Module) -> Policies:
        """What the method may ask."""
        velocity = self.velocity_of(model)
        if self.is_fsdp_enabled:
            # accelerate puts autocast around a model unless it shards it.
            velocity = in_autocast(velocity, self.accelerator)
        old = None if self._old_policy is None else self._old_policy.velocity(velocity)
        return Policies(velocity, old, self._reference)

    def _casts_kept(self) -> AbstractContextManager[None]:
        """Cast weights once, unless they are in shards, of which no process has room for all."""
        return nullcontext() if self.is_fsdp_enabled else casts_kept(self.args.device)

    def _weigh(self, micro_batches: Sequence[Batch]) -> tuple[Tensor, list[Batch]]:
        """The weight of an update over all processes, and the micro-batches that enter its loss."""
        mine = needed = [self.method.weight(batch) for batch in micro_batches]
        if self.is_fsdp_enabled and self.method.needs_rollout:
            # A sharded model's forward is collective: one that another process needs is run.
            needed = [max(weights) for weights in zip(*gather_object([mine]), strict=True)]
        useful = [b for b, weight in zip(micro_batches, needed, strict=True) if weight > 0]
        # Stays on the device: what is divided by it waits for the other processes there.
        weight = on_device(torch.tensor(math.fsum(mine), dtype=torch.float64), self.args.device)
        return self._summed(weight), useful

    def _summed(self, value: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.args.world_size > 1:
            torch.distributed.all_reduce(value)
        return value

    def _backward(
        self, policies: Policies, micro_batches: Sequence[Batch], weight: Tensor
    ) -> defaultdict[str, Tensor]:
        """Accumulate gradients of this process's rows; sums of the loss and of its metrics."""
        # Sharded gradients are averaged over the processes, others are added up.
        factor = self.args.world_size if self.is_fsdp_enabled else 1
        scale = _divided(factor, weight).float()
        sums: defaultdict[str, Tensor] = defaultdict(
            lambda: torch.zeros((), device=self.args.device)
        )
        if self.args.world_size > 1 and not self.is_fsdp_enabled:
            self._reduction = Reduction(self._trained())
        for batch in micro_batches:
            is_last = False
            for term in self.method.losses(policies, batch):
                assert not is_last, "a term follows the last one"
                is_last = term.is_last
                if self._reduction and is_last and batch is micro_batches[-1]:
                    self._reduction.start()
                self.accelerator.backward(term.loss_sum * scale)
                for name, value in ((LOSS, term.loss_sum), *term.metrics.items()):
                    sums[name] += value.detach()
        return sums

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.transformer.parameters() if p.requires_grad]

    # Not by DistributedDataParallel: its buckets take as much memory as the gradients, and its
    # hooks would wait for ever where the number of backward calls differs between processes (groups
    # without spread have no loss).
    def _add_up_gradients(self) -> Tensor:
        """Sum over processes. -> how many used each trained parameter, where there are several."""
        if self.is_fsdp_enabled:
            sharding.reshard(self.transformer)  # each backward has averaged its own
        if self._reduction is None:
            return torch.empty(0, device=self.args.device)
        users, self._reduction = self._reduction.finish(), None
        return users

    def _share(self, micro_batches: Sequence[Batch]) -> Share:
        """What this process adds to the update, but for the sums, which are on the device."""
        costs = math.fsum(map(self.method.forward_equivalents, micro_batches))
        share = Share({}, self._rollout, costs, self._reward_calls)
        self._rollout, self._reward_calls = {}, 0
        return share

    def _look_ahead(self, policies: Policies) -> None:
        """Send the next update's rows, and draw for them, while the device computes this one."""
        self._inputs = next(self._iterator, None)
        if self._inputs and not self.method.needs_rollout:
            self._collect(policies, self._inputs)

    @override
    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Batch]], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """The rows of one update, read while the one before was computed."""
        assert num_batches == 1
        self._iterator = epoch_iterator
        inputs, self._inputs = self._inputs, None
        inputs = next(epoch_iterator, None) if inputs is None else inputs
        return ([] if inputs is None else [inputs]), None

    @override
    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> float:
        """The norm before clipping; an update that is not finite ends the run before its step."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        update = self._update
        # All at once, since a fetch waits until the device has done all that it was given.
        numbers = torch.stack([norm.to(self.args.device), *update.sums.values()]).double()
        fetched = torch.cat([torch.stack([update.loss, update.weight]), numbers, update.users])
        loss, weight, norm, *rest = fetched.cpu().tolist()
        self._require_finite("the loss", loss)
        self._require_finite("the gradient norm", norm)
        sums, users = rest[: len(update.sums)], rest[len(update.sums) :]
        for parameter, count in zip(self._trained() if users else (), users, strict=True):
            if count == 0:
                parameter.grad = None
        share = replace(update.share, sums=dict(zip(update.sums, sums, strict=True)))
        self._pending.append((share, weight))
        return float(norm)

    def _settle(self) -> None:
        """Enter the updates since the last time into the ledger, over all processes."""
        for updates in zip(*gather_object([self._pending]), strict=True):
            shares, (weight, *_) = zip(*updates, strict=True)
            self.ledger.add(shares, weight=weight, images=self.training.batch_size)
        self._pending = []

    def _require_finite(self, name: str, value: float) -> None:
        """Stop before a broken update reaches the weights."""
        if not math.isfinite(value):
            args = self.args
            raise TrainingDiverged(
                f"update {self.state.global_step + 1}: {name} is {value}; lower learning_rate="
                f"{args.learning_rate:g} or max_grad_norm={args.max_grad_norm:g}, and look for "
                "values that are not finite in the training data and the reward"
            )

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the update, the means since the last point and the counters."""
        self._settle()
        if "loss" not in logs:
            return  # the Trainer's closing summary, which TrainingSummary replaces
        self.ledger.tick()
        values = {f"train/{name}": value for name, value in logs.items()}
        values |= self.ledger.close_window()
        super().log(dict(values), start_time)
        if self.is_world_process_zero():
            self.writer.allowed()
            self.on_log(self.state.global_step, values)

    @override
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        assert output_dir is not None
        if not self.args.should_save and not sharding.is_sharded(self.transformer):
            return
        write = held_transformer(self.transformer)
        if self.args.should_save:
            self.writer.put(partial(write, Path(output_dir) / TRANSFORMER_DIR))

    @override
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # The Trainer would write a sharded model's weights a second time, and have training wait.
        if self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        assert self.lr_scheduler is not None
        if not self.args.should_save:
            return
        folder = Path(output_dir)
        if not self.is_fsdp_enabled:
            assert self.optimizer is not None
            state = on_host(self.optimizer.state_dict())
            self.writer.put(partial(torch.save, state, folder / OPTIMIZER_NAME))
        state = deepcopy(self.lr_scheduler.state_dict())
        self.writer.put(partial(torch.save, state, folder / SCHEDULER_NAME))

    @override
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._settle()
        self.writer.begin()
        folder = checkpoint_path(Path(str(self.args.output_dir)), self.state.global_step)
        with writing(folder):
            super()._save_checkpoint(model, trial)
        if self.args.should_save:
            self.ledger.tick()
            updates = self.state.global_step - self._globalstep_last_logged
            self.ledger.save(folder, LossWindow(updates, self._tr_loss.item()))
        # The mark must not come before every process has written its generator states.
        self.accelerator.wait_for_everyone()

    @override
    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Nothing: ``go_on_from`` has read the weights, while they were whole."""

    def go_on_from(self, checkpoint: Path) -> None:
        """Read weights and counters, before training starts; the Trainer reads the rest."""
        load_transformer(self.transformer, checkpoint / TRANSFORMER_DIR)
        self.ledger, self._losses_before = Ledger.load(checkpoint)

    def _reopen_window(self) -> None:
        """Go on with the means that were not yet logged when the checkpoint was written."""
        self._tr_loss += self._losses_before.loss_sum
        self._globalstep_last_logged -= self._losses_before.updates
