"""A post-training run, from its configuration to its snapshots."""

from __future__ import annotations

from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

from rich.console import Console
from torch import nn
from transformers import TrainingArguments

from baselines.base import Condition, Method
from baselines.config import EmaConfig, LoraConfig, OptimConfig, TrainingConfig
from baselines.loop.arguments import training_arguments
from baselines.loop.callbacks import LogBeforeSave, MarkComplete, Snapshots
from baselines.loop.checkpoints import atomic_directory, last_complete_checkpoint, snapshot_path
from baselines.loop.ema import EmaCallback
from baselines.loop.progress import ProgressCallback
from baselines.loop.sharding import DDP
from baselines.loop.stream import RowSource, Shapes, TrainingStream
from baselines.loop.trainer import OnLog, PostTrainer, TrainingSummary
from baselines.loop.velocity import VelocityOf
from baselines.loop.weights import prepare_transformer, save_transformer


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
    description: str = "training",
    parallelism: str = DDP,
) -> TrainingSummary:
    """Post-train a transformer in place, going on from the last checkpoint in ``folder``.

    Afterwards ``transformer`` holds the weights to be evaluated: averaged, if the run averages, and
    with the adapter's layers inside, if it trains one. Sharded weights stay in their shards: read
    the snapshots.

    Args:
        transformer: A diffusers model, as the run starts from it; also when resuming.
        method: What computes the loss.
        rows: Training data.
        training: The loop.
        folder: Where checkpoints and snapshots go.
        optim: Optimiser and learning-rate schedule.
        lora: Adapter to train; null trains every weight, held in float32.
        ema: Averaging of the weights that are evaluated; null evaluates the last ones.
        seed: Of the data order, of every row's noise and of the adapter's initial weights.
        velocity_of: Makes the transformer, wrapped or not, what methods see.
        negative_condition: Of the empty prompt, with a batch axis of 1.
        on_log: Called on the main process with a step and its metrics; a resumed run repeats the
            steps after its checkpoint, with the same values.
        shapes: Of the rows, where their latents are not all alike.
        console: Where progress goes.
        description: What the progress bar says.
        parallelism: How several processes share the weights: ``ddp``, ``fsdp2`` or ``zero2``.

    Returns:
        What the run cost.

    Raises:
        ValueError: The configuration does not fit the method, the data or the processes.
        TrainingDiverged: The loss or the gradient is not finite.
    """
    stream = _stream(rows, shapes, method, training, seed)
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
    averaging = _averaging(model, ema, checkpoint)
    save = partial(_save_snapshot, model, averaging, arguments)
    snapshots = Snapshots(training.snapshot_steps, save)
    progress = ProgressCallback(console, description=description)
    trainer = PostTrainer(
        model,
        arguments,
        method=method,
        stream=stream,
        training=training,
        velocity_of=velocity_of,
        negative_condition=negative_condition,
        on_log=on_log,
        callbacks=[
            *([averaging] if averaging else []),
            snapshots,
            LogBeforeSave(),
            MarkComplete(),
            progress,
        ],
    )
    if checkpoint is not None:
        trainer.go_on_from(checkpoint)
    with closing(progress):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Takes accelerate's autocast off the module, which the caller goes on using.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    if averaging is not None:
        averaging.ema.copy_to(averaging.parameters)
    return trainer.summary()


def _stream(
    rows: RowSource, shapes: Shapes | None, method: Method, training: TrainingConfig, seed: int
) -> TrainingStream:
    """The rows in the order of a run, whose lengths fit the method."""
    training.check_method(
        updates_per_collection=method.updates_per_collection, group_size=method.group_size
    )
    return TrainingStream(
        rows,
        length=training.steps * training.batch_size,
        group_size=method.group_size,
        seed=seed,
        shapes=shapes,
    )


def _averaging(
    model: nn.Module, config: EmaConfig | None, checkpoint: Path | None
) -> EmaCallback | None:
    """The averaging of a run, where it has one."""
    if config is None:
        return None
    return EmaCallback(model, config.decay, every=config.every, resume_from=checkpoint)


def _save_snapshot(
    model: nn.Module, ema: EmaCallback | None, arguments: TrainingArguments, step: int
) -> None:
    """Keep the weights to be evaluated; those that a resumed run finds have the same bits."""
    target = snapshot_path(Path(str(arguments.output_dir)), step)
    with arguments.main_process_first(local=False, desc="looking for the snapshot"):
        exists = target.exists()
    if exists:
        return
    is_main = bool(arguments.should_save)
    weights = nullcontext() if ema is None else ema.averaged()
    place = atomic_directory(target) if is_main else nullcontext(target)
    with weights, place as unfinished:
        save_transformer(model, unfinished, is_main=is_main)
