"""A post-training run, from its configuration to its snapshots."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from baselines.base import Condition, Method
from baselines.config import EmaConfig, LoraConfig, OptimConfig, TrainingConfig
from baselines.loop.arguments import deterministic_kernels, training_arguments
from baselines.loop.callbacks import EmaCallback, MarkComplete, SaveRhythm, Snapshots
from baselines.loop.checkpoints import CheckpointWriter, last_complete_checkpoint
from baselines.loop.progress import ProgressCallback
from baselines.loop.sharding import DDP
from baselines.loop.stream import RowSource, Shapes, TrainingStream
from baselines.loop.trainer import OnLog, PostTrainer, TrainingSummary
from baselines.loop.velocity import VelocityOf
from baselines.loop.weights import prepare_transformer


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
    parallelism: str = DDP,
) -> TrainingSummary:
    """Post-train a transformer in place, going on from the last checkpoint in ``folder``.

    Afterwards ``transformer`` holds the weights to be evaluated: averaged, if the run averages, and
    with the adapter's layers inside, if it trains one. Sharded weights stay in their shards: read
    the snapshots. -> what the run cost.

    ``transformer`` is a diffusers model as the run starts from it, also when resuming. Without
    ``lora`` every weight is trained, held in float32. ``negative_condition``, of the empty prompt,
    has a batch axis of 1. Snapshots are rounded to ``snapshot_dtype``, which None leaves in
    the trained one. ``shapes`` are needed where the rows' latents are not all alike.
    ``on_log`` is called on the main process; a resumed run repeats the steps after its checkpoint,
    with the same values.

    Raises:
        ValueError: The configuration does not fit the method, the data or the processes.
        TrainingDiverged: The loss or the gradient is not finite.
    """
    training.check_method(
        updates_per_collection=method.updates_per_collection, group_size=method.group_size
    )
    length, group_size = training.steps * training.batch_size, method.group_size
    stream = TrainingStream(rows, length=length, group_size=group_size, seed=seed, shapes=shapes)
    device = next(transformer.parameters()).device
    arguments = training_arguments(
        training, optim, folder, device, seed=seed, parallelism=parallelism
    )
    optim.check_parallelism(parallelism)
    training.check_processes(arguments.world_size)
    if stream.shapes is not None:
        training.check_shapes(stream.shapes.block, arguments.world_size)
    with arguments.main_process_first(local=False, desc="finding the last checkpoint"):
        checkpoint = last_complete_checkpoint(folder)
    model = prepare_transformer(transformer, training, lora, seed)
    # Sharded states are gathered and written by accelerate, which has all processes wait.
    writer = CheckpointWriter(in_background=parallelism == DDP)
    averaging = None
    if ema is not None:
        averaging = EmaCallback(
            model, ema.decay, every=ema.every, resume_from=checkpoint, writer=writer
        )
    progress = ProgressCallback(console)
    rhythm = SaveRhythm(
        training.save_steps, training.save_minutes, unit=method.updates_per_collection
    )
    # In this order: snapshots are of the new average, and the mark comes after all files.
    snapshots = Snapshots(training.snapshot_steps, model, averaging, snapshot_dtype)
    callbacks = [snapshots, rhythm, MarkComplete(writer), progress]
    trainer = PostTrainer(
        model,
        arguments,
        method=method,
        stream=stream,
        training=training,
        velocity_of=velocity_of,
        negative_condition=negative_condition,
        on_log=on_log,
        writer=writer,
        callbacks=callbacks if averaging is None else [averaging, *callbacks],
    )
    if checkpoint is not None:
        trainer.go_on_from(checkpoint)
    with closing(progress), writer, deterministic_kernels(training.deterministic):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Takes accelerate's autocast off the module, which the caller goes on using.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    if averaging is not None:
        averaging.ema.copy_to(averaging.parameters)
    return TrainingSummary(trainer.state.global_step, **vars(trainer.ledger.counters))
