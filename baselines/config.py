"""What every method is configured by, and what a method's own configuration has to say.

Sources of the defaults: SOAR = arXiv:2604.12617 and the README of Tencent-Hunyuan/HY-SOAR;
Flow-GRPO = arXiv:2505.05470 and the configurations of yifan123/flow_grpo.
"""

# Imports no framework, so that a wrong value is reported before anything heavy is loaded.
from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from evaluators.base import ADDRESS as ADDRESS
from evaluators.base import ADDRESS_IF_SET as ADDRESS_IF_SET

if TYPE_CHECKING:
    from baselines.base import Method, World

StepKind = Literal["flow_sde", "cps", "sde", "simple"]
Schedule = Literal["constant", "linear", "cosine"]
Optimizer = Literal["adamw", "adamw_8bit"]
Precision = Literal["no", "bf16"]

#: Of the gradients that processes add up at a time.
BUCKET_BYTES = 64 * 2**20

#: Updates or rows, at most: beyond it, times and sizes of a plan are no numbers of a machine.
_MOST = 10**9

#: Beyond it half precision has no number for the velocity, and images are black.
GREATEST_GUIDANCE = 1000.0

#: Levels of the training grid of Stable Diffusion 3's scheduler.
NUM_TRAIN_TIMESTEPS = 1000


def require(valid: bool, name: str, value: object, remedy: str) -> None:
    """Refuse a value, saying what would be accepted."""
    if not valid:
        raise ValueError(f"{name} = {value!r} is not possible: {remedy}")


def require_at_least(config: object, minimum: int, *names: str) -> None:
    """Refuse values of fields below a minimum, or not finite."""
    for name in names:
        value = getattr(config, name)
        require(minimum <= value < math.inf, name, value, f"use {minimum} or more")


def require_positive(config: object, *names: str) -> None:
    """Refuse values of fields that are not above 0, or not finite."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, name, value, "use a positive number")


def require_choice(name: str, value: str, choices: object) -> None:
    """Refuse a value that is not one of a ``Literal``'s."""
    allowed = get_args(choices)
    require(value in allowed, name, value, f"choose one of {', '.join(allowed)}")


def require_guidance(value: float) -> None:
    """Refuse a guidance below 1, or that no image comes of."""
    # diffusers' pipeline would silently sample without guidance.
    within = 1 <= value <= GREATEST_GUIDANCE
    require(within, "guidance_scale", value, f"use 1.0 (no guidance) to {GREATEST_GUIDANCE:g}")


def require_dropout(value: float) -> None:
    """Refuse what is no probability below 1."""
    # At 1 no prompt would ever be seen.
    require(0 <= value < 1, "condition_dropout", value, "use a probability in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class MethodConfig(abc.ABC):
    """A method's hyper-parameters, what it needs and what a row costs, without the method."""

    # Whoever checks, plans or times a run asks here and nowhere else: a method of anybody's is one
    # class with its configuration and one YAML file.

    #: In addresses; stays when the class is moved or renamed.
    kind: ClassVar[str]
    #: For tables and figures.
    title: ClassVar[str]
    #: Whether rows need an image, or the method makes its own of their prompts.
    trains_on: ClassVar[Literal["images", "prompts"]] = "images"
    needs_reward: ClassVar[bool] = False
    #: Modules beside the configuration's own whose code determines what training gives.
    code: ClassVar[tuple[str, ...]] = ()

    # The package's own methods resolve their class by name, as YAML does: its module imports the
    # configuration's, and import-linter's contract "circles" sees imports in functions, too.
    @abc.abstractmethod
    def build(self, world: World) -> Method:
        """The method; what is heavy is imported here."""

    @abc.abstractmethod
    def forward_equivalents(self) -> float:
        """Model evaluations, all in all; a backward counts as two."""

    @abc.abstractmethod
    def forwards_with_gradient(self) -> float:
        """Forwards that are followed by a backward, which gradient checkpointing repeats."""

    def rows_with_graph(self, rows: int) -> int:
        """Rows that the model sees at once while gradients are kept, of a micro-batch of some."""
        return rows

    def check_sizes(self) -> None:
        """``ValueError`` where a number is beyond what any plan or sampler can count with."""
        for one in fields(self):
            value = getattr(self, one.name)
            # Whole numbers of any length are read; costs and times are floating-point ones.
            if isinstance(value, int):
                require(value <= _MOST, one.name, value, f"use {_MOST} or less")
        steps, most = getattr(self, "num_inference_steps", 1), NUM_TRAIN_TIMESTEPS - 1
        require(steps <= most, "num_inference_steps", steps, f"use {most} or less")
        self.check_cost()

    def check_cost(self) -> None:
        """``ValueError`` where ``forward_equivalents`` gives what nothing can be divided by."""
        cost: object = self.forward_equivalents()
        kind = type(self)
        require(
            isinstance(cost, (int, float)) and 0 < cost < math.inf,
            f"{kind.__module__}.{kind.__qualname__}.forward_equivalents()",
            cost,
            "return a positive number",
        )

    def by_memory(self) -> Sequence[MethodConfig]:
        """Forms of equal results that memory chooses from, the smallest first; else itself."""
        return (self,)

    @property
    def group_size(self) -> int:
        """Consecutive rows of the stream that hold the same prompt."""
        return 1

    @property
    def updates_per_collection(self) -> int:
        """Optimiser updates that share one collection phase."""
        return 1

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with the base model; full fine-tuning then keeps a copy."""
        return False

    @property
    def keeps_old_policy(self) -> bool:
        """Whether an average of the trained weights is kept that the method asks."""
        return False

    @property
    def latents_held(self) -> int:
        """Latents that are kept of a row while it is trained on."""
        return 4


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
        require_choice("schedule", self.schedule, Schedule)
        require_choice("optimizer", self.optimizer, Optimizer)
        require_positive(self, "learning_rate", "max_grad_norm")
        require_at_least(self, 0, "weight_decay", "warmup_steps")
        valid = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(valid, "betas", self.betas, "use two numbers in [0, 1)")

    def check_packages(self) -> None:
        """``ValueError`` where the optimiser's package is not installed."""
        if self.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
            raise ValueError(
                "optim.optimizer=adamw_8bit needs the package bitsandbytes and a CUDA device: "
                "`pip install bitsandbytes`, or use adamw"
            )

    def check_parallelism(self, parallelism: str) -> None:
        """``ValueError`` where the optimiser cannot work on weights in shards."""
        if parallelism != "ddp" and self.optimizer == "adamw_8bit":
            raise ValueError(
                f"optim.optimizer=adamw_8bit: bitsandbytes takes no weights in shards "
                f"(launcher.parallelism={parallelism}); use adamw, or launcher.parallelism=ddp"
            )


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters, Gaussian initialisation; defaults are Flow-GRPO's.

    Attributes:
        rank: Of each adapter. Published 32.
        alpha: The adapter's output is scaled by alpha / rank. Published 64.
        target_modules: Suffixes of the adapted linear layers; null takes those that the model's
            family is adapted at, which for Stable Diffusion 3 are the published ones.
    """

    rank: int = 32
    alpha: float = 64.0
    target_modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rank")
        require_positive(self, "alpha")
        targets = self.target_modules
        require(targets != (), "target_modules", targets, "name a layer, or use null")


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Average of the trained weights; defaults are Flow-GRPO's.

    Attributes:
        decay: The largest share of the average that is kept at an averaging: the n-th keeps
            n / (9 + n) where that is less, .9 from the 81st on, .98 from the 441st; the first
            keeps nothing, so that no average holds what training started from. Published 0.9.
        every: Optimiser updates between two averagings. Published 8.
    """

    decay: float = 0.9
    # Of updates. The public code averages in its loop over micro-batches: 2 times every 8 updates
    # on 32 GPUs, 8 times on 8.
    every: int = 8

    def __post_init__(self) -> None:
        require(0 <= self.decay < 1, "decay", self.decay, "use a number in [0, 1)")
        require_at_least(self, 1, "every")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop around a method.

    Attributes:
        steps: Optimiser updates.
        batch_size: Rows an update, over all processes.
        save_steps: Updates between checkpoints, beside those by time; a multiple of the method's
            updates a collection. Null counts none.
        save_minutes: Time between checkpoints, of which one more is written at the end; null writes
            none by time. Neither changes a number.
        keep_checkpoints: The newest ones that stay while it trains. With 2, one that the disk has
            damaged costs the time since the one before it; with 1, all of the training.
        num_snapshots: Weights kept for evaluation, evenly spaced, the last at the end.
        micro_batch_size: Rows that go through the model at once on one process; null takes all of
            a process's rows. Bounds memory; changes no weight. Where groups of a rollout have no
            spread, it changes how many rows are trained on and counted in vain.
        mixed_precision: ``no`` or ``bf16`` (autocast over float32 trained weights).
        max_sequence_length: Tokens a prompt of the encoder that takes long ones, in training;
            evaluation has the model's, which is the most. Null takes that for both. SOAR and SFT
            publish 77, Flow-GRPO 128.
        gradient_checkpointing: Trades speed for memory; null does so only where training would not
            fit on the GPU otherwise, and never on a CPU.
        compile: Whether torch.compile makes the layers faster, at minutes of compiling.
        deterministic: Whether torch is asked for deterministic kernels, so that a run that is
            repeated or resumed on the same kind of GPU ends with the same bits; slower there, and
            no difference on a CPU.
        logging_steps: Updates between two logged points.
        num_workers: Processes that load data; 0 loads in the training process.
    """

    steps: int
    batch_size: int
    save_steps: int | None = field(default=None, metadata=ADDRESS)
    save_minutes: float | None = field(default=10.0, metadata=ADDRESS)
    keep_checkpoints: int = field(default=2, metadata=ADDRESS)
    num_snapshots: int = 1
    micro_batch_size: int | None = field(default=None, metadata=ADDRESS)
    mixed_precision: Precision = "no"
    max_sequence_length: int | None = field(default=None, metadata=ADDRESS_IF_SET)
    # Without it SFT and SOAR do a quarter fewer operations.
    gradient_checkpointing: bool | None = field(default=False, metadata=ADDRESS)
    compile: bool = field(default=False, metadata=ADDRESS)
    deterministic: bool = field(default=False, metadata=ADDRESS)
    logging_steps: int = field(default=1, metadata=ADDRESS)
    num_workers: int = field(default=0, metadata=ADDRESS)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "keep_checkpoints", "logging_steps"):
            self._require(1 <= getattr(self, name) <= _MOST, name, f"must be in 1..{_MOST}")
        for name in ("save_steps", "micro_batch_size"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "must be at least 1, or null")
        minutes = self.save_minutes
        is_time = minutes is None or 0 < minutes < math.inf
        self._require(is_time, "save_minutes", "must be a positive number, or null")
        self._require(self.num_workers >= 0, "num_workers", "may not be negative")
        tokens = self.max_sequence_length
        is_length = tokens is None or 0 <= tokens <= 512
        self._require(is_length, "max_sequence_length", "must be 0..512, or null for the model's")
        precisions = get_args(Precision)
        is_known = self.mixed_precision in precisions
        self._require(is_known, "mixed_precision", f"must be one of {', '.join(precisions)}")
        self._require(
            0 <= self.num_snapshots <= self.steps,
            "num_snapshots",
            f"must be at most training.steps={self.steps}, and not negative",
        )

    def _require(self, valid: bool, name: str, remedy: str) -> None:
        """Refuse a field's value under its name on the command line."""
        if not valid:
            raise ValueError(f"training.{name}={getattr(self, name)!r}: {remedy}")

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps whose weights are evaluated, ascending; the last is ``steps``."""
        parts = range(1, self.num_snapshots + 1)
        return tuple(round(self.steps * part / self.num_snapshots) for part in parts)

    def update_cost(self, method: MethodConfig) -> float:
        """Forward equivalents of an update, over all processes, as they are planned.

        Flow-GRPO may spend less: groups whose rewards are all alike are not trained on.
        """
        method.check_cost()
        return self.batch_size * method.forward_equivalents()

    # The checks below raise ValueError, which names the value and one that works.

    def check_method(self, *, updates_per_collection: int, group_size: int) -> None:
        """Refuse a run that a method's collections and groups of rows do not divide."""
        for name in ("steps",) if self.save_steps is None else ("save_steps", "steps"):
            what = f"the method's updates_per_collection={updates_per_collection}"
            reason = ", because a collection cannot be resumed in the middle"
            self._require_multiple(name, updates_per_collection, what + reason)
        self._require_multiple("batch_size", group_size, f"the method's group_size={group_size}")

    def check_average(self, ema: EmaConfig) -> None:
        """Refuse snapshots of an average that is still what training started from."""
        first = self.snapshot_steps[0]
        if ema.every > first:
            raise ValueError(
                f"ema.every={ema.every}: nothing has been averaged yet at the first snapshot, step "
                f"{first}; use ema.every={first} or less, or more training.steps"
            )

    def check_processes(self, world_size: int) -> None:
        """Refuse a batch that does not divide evenly over processes and micro-batches."""
        size = self.micro_batch_size or 1
        unit = world_size * size
        what = f"{unit} (micro_batch_size={size} on {world_size} process(es))"
        self._require_multiple("batch_size", unit, what, " or another micro_batch_size")

    def _require_multiple(self, name: str, unit: int, what: str, other: str = "") -> None:
        value = getattr(self, name)
        remedy = f"must be a multiple of {what}; use {(value // unit + 1) * unit}{other}"
        self._require(value % unit == 0, name, remedy)

    def check_shapes(self, block: int, world_size: int) -> None:
        """Refuse micro-batches that would mix shapes, of which ``block`` rows in a row have one."""
        size = self.micro_batch_size or self.rows_per_process(world_size)
        if block % size:
            raise ValueError(
                f"training.micro_batch_size={size}: with images of several shapes it must divide "
                f"data.rows_per_bucket={block}, so that a micro-batch has one shape"
            )

    def rows_per_process(self, world_size: int) -> int:
        """Rows an update on one process."""
        return self.batch_size // world_size


def cost_unit(method: MethodConfig, ema: EmaConfig | None) -> int:
    """Updates after which the evaluated weights hold all that was paid for.

    The first of those that share a rollout has paid for all of them, and an average lacks what was
    trained since its last averaging: a multiple of both.
    """
    return math.lcm(method.updates_per_collection, 1 if ema is None else ema.every)
