"""What a post-training run is configured by; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from baselines.config import EmaConfig, LoraConfig, OptimConfig

MIXED_PRECISION = ("no", "bf16")


@dataclass(frozen=True, kw_only=True)
class PostTrainingConfig:
    """One run of the loop; field names without a group of their own are ``training.*``.

    Attributes:
        steps: Optimiser updates.
        batch_size: Rows an update, over all processes.
        micro_batch_size: Rows that go through the model at once on one process; null takes all of
            a process's rows. Bounds memory; changes no result.
        optim: Optimiser and learning-rate schedule.
        lora: Adapter to train; null trains every weight, held in float32.
        ema: Averaging of the weights that are evaluated; null evaluates the last ones.
        mixed_precision: ``no`` or ``bf16`` (autocast over float32 trained weights).
        gradient_checkpointing: Trades speed for memory; enable when one row does not fit.
        compile: Whether torch.compile makes the layers faster, at minutes of compiling.
        seed: Of the data order, of every row's noise and of the adapter's initial weights.
        save_steps: Updates between checkpoints; a multiple of the method's updates a collection.
        snapshots: Updates after which the weights to be evaluated are kept, in 1..steps.
        logging_steps: Updates between two logged points.
        num_workers: Processes that load data; 0 loads in the training process.
    """

    steps: int
    batch_size: int
    optim: OptimConfig
    micro_batch_size: int | None = None
    lora: LoraConfig | None = None
    ema: EmaConfig | None = None
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = 0
    save_steps: int = 100
    snapshots: tuple[int, ...] = ()
    logging_steps: int = 10
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        for name in ("steps", "batch_size", "save_steps", "logging_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name}={getattr(self, name)}: must be at least 1")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(
                f"training.micro_batch_size={self.micro_batch_size}: must be at least 1, or null"
            )
        if self.num_workers < 0 or self.seed < 0:
            raise ValueError(
                f"training.num_workers={self.num_workers}, training.seed={self.seed}: "
                "neither may be negative"
            )
        if self.mixed_precision not in MIXED_PRECISION:
            raise ValueError(
                f"training.mixed_precision={self.mixed_precision!r}: "
                f"must be one of {', '.join(MIXED_PRECISION)}"
            )
        outside = [step for step in self.snapshots if not 1 <= step <= self.steps]
        if outside:
            raise ValueError(
                f"training.snapshots={list(self.snapshots)}: {outside} lie outside 1.."
                f"{self.steps}; step 0 is the base model, which is evaluated once for all runs"
            )

    def check_method(self, *, updates_per_collection: int, group_size: int) -> None:
        """Refuse a run that a method's collections and groups do not divide.

        Args:
            updates_per_collection: Updates that share one collection phase.
            group_size: Consecutive rows with the same prompt.

        Raises:
            ValueError: Names the value and the nearest one that works.
        """
        for name in ("save_steps", "steps"):
            value = getattr(self, name)
            if value % updates_per_collection:
                raise ValueError(
                    f"training.{name}={value}: must be a multiple of the method's "
                    f"updates_per_collection={updates_per_collection}, because a collection cannot "
                    f"be resumed in the middle; use {_next_multiple(value, updates_per_collection)}"
                )
        if self.batch_size % group_size:
            raise ValueError(
                f"training.batch_size={self.batch_size}: must be a multiple of the method's "
                f"group_size={group_size}; use {_next_multiple(self.batch_size, group_size)}"
            )

    def check_packages(self) -> None:
        """Refuse an optimiser whose package is not installed.

        Raises:
            ValueError: Names the package.
        """
        if self.optim.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
            raise ValueError(
                "optim.optimizer=adamw_8bit needs the package bitsandbytes and a CUDA device: "
                "`pip install bitsandbytes`, or use adamw"
            )

    def check_processes(self, world_size: int, parallelism: str = "ddp") -> None:
        """Refuse a batch that does not divide evenly over processes and micro-batches.

        Args:
            world_size: Number of processes.
            parallelism: How they share the weights.

        Raises:
            ValueError: Names the value and the nearest one that works.
        """
        if parallelism != "ddp" and self.optim.optimizer == "adamw_8bit":
            raise ValueError(
                f"optim.optimizer=adamw_8bit: bitsandbytes takes no weights in shards "
                f"(launcher.parallelism={parallelism}); use adamw, or launcher.parallelism=ddp"
            )
        size = self.micro_batch_size or 1
        unit = world_size * size
        if self.batch_size % unit:
            raise ValueError(
                f"training.batch_size={self.batch_size}: must be a multiple of {unit} "
                f"(micro_batch_size={size} on {world_size} process(es)); "
                f"use {_next_multiple(self.batch_size, unit)} or another micro_batch_size"
            )

    def check_shapes(self, block: int, world_size: int) -> None:
        """Refuse micro-batches that would mix images of several shapes.

        Args:
            block: Consecutive rows of one shape.
            world_size: Number of processes.

        Raises:
            ValueError: Names the value and what would do.
        """
        size = self.micro_batch_size or self.rows_per_process(world_size)
        if block % size:
            raise ValueError(
                f"training.micro_batch_size={size}: with images of several shapes it must divide "
                f"data.rows_per_bucket={block}, so that a micro-batch has one shape"
            )

    def rows_per_process(self, world_size: int) -> int:
        """Rows an update on one process."""
        return self.batch_size // world_size


def _next_multiple(value: int, unit: int) -> int:
    """The smallest multiple of ``unit`` that is not below ``value``."""
    return -(-value // unit) * unit
