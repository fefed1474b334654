"""A post-training run, from its configuration to its snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import torch
from accelerate.utils import broadcast_object_list
from rich.console import Console
from torch import nn
from transformers import TrainingArguments

from baselines.base import Condition, Method
from baselines.config import EmaConfig, LoraConfig, OptimConfig, TrainingConfig
from baselines.loop.arguments import deterministic_kernels, training_arguments
from baselines.loop.callbacks import EmaCallback, MarkComplete, SaveRhythm, Snapshots
from baselines.loop.checkpoints import CheckpointWriter, last_complete_checkpoint
from baselines.loop.old_policy import OldPolicy
from baselines.loop.owner import Owner
from baselines.loop.progress import ProgressCallback
from baselines.loop.sharding import DDP
from baselines.loop.stream import RowSource, Shapes, TrainingStream
from baselines.loop.trainer import OnLog, PostTrainer, TrainingSummary
from baselines.loop.velocity import VelocityOf
from baselines.loop.weights import prepare_transformer


class Journal(Protocol):
    """What a training logs, kept in step with its checkpoints; the main process asks it."""

    def save(self, checkpoint: Path) -> None:
        """Copy what was logged so far into a checkpoint."""

    def go_back(self, checkpoint: Path | None) -> None:
        """Hold what a checkpoint's copy says; nothing without one."""


def post_train(
    transformer: nn.Module,
    method: Method,
    rows: RowSource,
    training: TrainingConfig,
    folder: Path,
    *,
    optim: OptimConfig,
    lora: LoraConfig | None = None,
    ema: EmaConfig | None = None,
    seed: int,
    velocity_of: VelocityOf,
    negative_condition: Condition,
    on_log: OnLog,
    shapes: Shapes | None = None,
    console: Console | None = None,
    snapshot_dtype: torch.dtype | None = None,
    snapshot_steps: Sequence[int] | None = None,
    parallelism: str = DDP,
    journal: Journal | None = None,
    owner: Owner | None = None,
) -> TrainingSummary:
    """Post-train a transformer in place, going on from the last checkpoint in ``folder``.

    Afterwards ``transformer`` holds the weights to be evaluated: averaged, if the run averages, and
    with the adapter's layers inside, if it trains one. Sharded weights stay in their shards: read
    the snapshots. -> what the run cost.

    ``transformer`` is a diffusers model as the run starts from it, also when resuming. Without
    ``lora`` every weight is trained, held in float32. ``negative_condition``, of the empty prompt,
    has a batch axis of 1. Snapshots are rounded to ``snapshot_dtype``, which None leaves in the
    trained one, and kept at ``snapshot_steps``; None takes those of ``training``. ``shapes`` are
    needed where the rows' latents are not all alike. ``on_log`` is called on the main process; a
    resumed run repeats the steps after its checkpoint, with the same values. ``journal`` keeps what
    was logged with each checkpoint. Without ``owner`` the folder is taken over.

    Raises:
        ValueError: The configuration does not fit the method, the data or the processes.
        TrainingDiverged: The loss or the gradient is not finite.
        StorageError: The disk is full, or cannot be written to.
        TakenOver: Another process trains into the folder by now.
    """
    training.check_method(
        updates_per_collection=method.updates_per_collection, group_size=method.group_size
    )
    kept = training.snapshot_steps if snapshot_steps is None else snapshot_steps
    device = next(transformer.parameters()).device
    arguments = training_arguments(
        training, optim, folder, device, seed=seed, parallelism=parallelism
    )
    optim.check_parallelism(parallelism)
    stream = _stream(rows, method, training, arguments, shapes)
    allowed = _permission(arguments, folder, owner)
    checkpoint = _last_checkpoint(arguments, folder, journal)
    model = prepare_transformer(transformer, training, lora, seed)
    # Sharded states are gathered and written by accelerate, which has all processes wait.
    writer = CheckpointWriter(
        in_background=parallelism == DDP, allowed=allowed, keep=training.keep_checkpoints
    )
    averaging = None if ema is None else _averaging(model, ema, checkpoint, writer)
    old_policy = _old_policy(model, method, checkpoint, writer)
    progress = ProgressCallback(console)
    # In this order: snapshots are of the new average, and the mark comes after all files.
    callbacks = [
        *(callback for callback in (averaging, old_policy) if callback is not None),
        Snapshots(kept, model, averaging, snapshot_dtype, allowed),
        SaveRhythm(training.save_steps, training.save_minutes, method.updates_per_collection),
        MarkComplete(writer) if journal is None else MarkComplete(writer, journal.save),
        progress,
    ]
    trainer = PostTrainer(
        model, arguments, method=method, stream=stream, training=training,
        velocity_of=velocity_of, negative_condition=negative_condition, on_log=on_log,
        writer=writer, callbacks=callbacks, old_policy=old_policy,
    )  # fmt: skip
    with closing(progress), writer, deterministic_kernels(training.deterministic):
        _train(trainer, checkpoint)
    if averaging is not None:
        averaging.ema.copy_to(averaging.parameters)
    return TrainingSummary(trainer.state.global_step, **vars(trainer.ledger.counters))


def _averaging(
    model: nn.Module, ema: EmaConfig, checkpoint: Path | None, writer: CheckpointWriter
) -> EmaCallback:
    return EmaCallback(model, ema.decay, every=ema.every, resume_from=checkpoint, writer=writer)


def _old_policy(
    model: nn.Module, method: Method, checkpoint: Path | None, writer: CheckpointWriter
) -> OldPolicy | None:
    if method.old_decay is None:
        return None
    every = method.updates_per_collection
    return OldPolicy(model, method.old_decay, every=every, resume_from=checkpoint, writer=writer)


def _train(trainer: PostTrainer, checkpoint: Path | None) -> None:
    """To the end, from a checkpoint or the start."""
    if checkpoint is not None:
        trainer.go_on_from(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Takes accelerate's autocast off the module, which the caller goes on using.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)


def _stream(
    rows: RowSource,
    method: Method,
    training: TrainingConfig,
    arguments: TrainingArguments,
    shapes: Shapes | None,
) -> TrainingStream:
    """The rows of a whole training, in their order, which the processes can share."""
    length, group_size = training.steps * training.batch_size, method.group_size
    stream = TrainingStream(
        rows, length=length, group_size=group_size, seed=arguments.seed, shapes=shapes
    )
    training.check_processes(arguments.world_size)
    if stream.shapes is not None:
        training.check_shapes(stream.shapes.block, arguments.world_size)
    return stream


def _permission(
    arguments: TrainingArguments, folder: Path, owner: Owner | None
) -> Callable[[], None]:
    """What raises ``TakenOver`` once the folder is another's; the main process alone asks."""
    if not arguments.should_save:
        return lambda: None
    return (owner or Owner.claim(folder)).check


def _last_checkpoint(
    arguments: TrainingArguments, folder: Path, journal: Journal | None
) -> Path | None:
    """The checkpoint that all processes go on from; the log goes back to it."""
    names: list[str | None] = [None]
    if arguments.should_save:
        path = last_complete_checkpoint(folder)
        names = [None if path is None else path.name]
        if journal is not None:
            journal.go_back(path)
    # Not looked for by each: one that comes late, or whose network disk does, would see another.
    (name,) = broadcast_object_list(names)
    return None if name is None else folder / name
