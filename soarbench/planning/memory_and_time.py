"""What a run needs of each GPU: memory and time as arithmetic on counted sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from baselines.config import (
    BUCKET_BYTES,
    EmaConfig,
    LoraConfig,
    MethodConfig,
    OptimConfig,
    TrainingConfig,
)
from baselines.group_config import GroupConfig
from evaluators.base import JudgeConfig
from soarbench.models.base import Architecture, ModelConfig

GB = 10**9
#: Share of a GPU's peak that training reaches: assumed; docs/gpu.md has what peers come to.
UTILISATION = 0.4
#: The CUDA context and libraries, GB; not part of what torch counts.
CONTEXT_GB = 1.5
#: Share of the tensors' bytes that the caching allocator loses between them.
FRAGMENTATION = 0.05
#: Of a weight that is trained.
MASTER_BYTES = 4
#: By type.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Bytes of both moments of one trained weight; 8-bit moments carry a float32 scale every 256.
OPTIMIZER_BYTES = {"adamw": 8.0, "adamw_8bit": 2 + 2 * 4 / 256}


def weights_gb(judge: JudgeConfig) -> float:
    """Memory of a judge's published weights, which state it in float32, in the judge's own type."""
    share = BYTES.get(getattr(judge, "dtype", "float32"), 4) / 4
    return share * sum(weights.memory_gb for weights in judge.published)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers that a transformer holds."""

    #: All weights, an adapter's included.
    total: int
    trained: int
    #: Fixed ones beside the weights: SD3's position embedding, a tenth as many.
    buffers: int


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Bytes at the peak of a forward and backward, gradients included, weights not.

    ``first`` is of the first after the gradients were let go, ``later`` of one that adds to them.
    """

    first: float
    later: float


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU, from its maker's data sheet: 10^9 bytes, and dense peaks of 10^12/s."""

    memory_gb: float
    bf16_tflops: float
    float32_tflops: float


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is planned.

    ``judges_gb`` are weights of all judges that stay loaded, ``rewards_gb`` of those that a reward
    asks; ``judging_gb`` and ``rewarding_gb`` are what the hungriest of them takes beside;
    ``drawn_rows`` go through the model at once when images are drawn.
    ``is_judged``: rewards decode and judge, as they do but in a bench.
    """

    model: ModelConfig
    method: MethodConfig
    optim: OptimConfig
    training: TrainingConfig
    lora: LoraConfig | None = None
    ema: EmaConfig | None = None
    num_processes: int = 1
    parallelism: str = "ddp"
    judges_gb: float = 0.0
    rewards_gb: float = 0.0
    judging_gb: float = 0.0
    rewarding_gb: float = 0.0
    drawn_rows: int = 0
    is_judged: bool = True

    @property
    def rows(self) -> int:
        """Rows of an update on one GPU."""
        return self.training.rows_per_process(self.num_processes)

    @property
    def micro_batch_size(self) -> int:
        """Rows that go through the model together."""
        return self.training.micro_batch_size or self.rows

    @property
    def model_rows(self) -> int:
        """Rows that the model itself sees at once while gradients are kept."""
        return self.method.rows_with_graph(self.micro_batch_size)

    @property
    def rollout_rows(self) -> int:
        """Rows that the model sees at once in a rollout; 0 where there is none."""
        if not isinstance(self.method, GroupConfig):
            return 0
        return self.method.branches * (self.method.rollout_batch_size or self.micro_batch_size)

    @property
    def num_backwards(self) -> float:
        """Backwards of an update on one GPU; a little above 1 where the second has fewer rows."""
        forwards = self.method.forwards_with_gradient() * self.micro_batch_size / self.model_rows
        return forwards * self.rows / self.micro_batch_size

    @property
    def forward_equivalents(self) -> float:
        """Model evaluations of an update, over all GPUs; a backward counts as two."""
        return self.training.update_cost(self.method)


def memory_rows(
    demand: Demand,
    architecture: Architecture,
    sizes: Parameters,
    passes: Passes,
    *,
    collected: float = 0.0,
) -> dict[str, float]:
    """Bytes on each GPU at the peak of training, by what they are.

    ``passes`` are of ``demand.model_rows``; ``collected`` is what a rollout, or decoding and
    judging it, takes.
    """
    # What is trained is float32, whatever the model's type: steps of 2e-5 vanish in bfloat16.
    frozen = BYTES[demand.model.dtype]
    trained = sizes.trained
    weights = MASTER_BYTES * trained + frozen * (sizes.total - trained)
    held = MASTER_BYTES if demand.lora is None else frozen
    # Buffers are in every process: FSDP2 shards parameters alone.
    shards = 1 if demand.parallelism == "ddp" else demand.num_processes
    # An adapter is switched off instead of copying what it is on.
    copies_reference = demand.method.needs_reference and demand.lora is None
    gradients = MASTER_BYTES * trained
    moments = OPTIMIZER_BYTES[demand.optim.optimizer] * trained / shards
    rows = {
        "weights": weights / shards + held * sizes.buffers,
        "gradients": gradients / shards,
        "optimiser": moments,
        "averaged weights": MASTER_BYTES * trained / shards if demand.ema else 0.0,
        "old policy": MASTER_BYTES * trained / shards * demand.method.keeps_old_policy,
        "reference model": MASTER_BYTES * (sizes.total + sizes.buffers) * copies_reference,
        "communication": _communicated(demand, weights, gradients, architecture),
        "autoencoder": BYTES["float32"] * architecture.vae_parameters,
        # Processes that train together do nothing else; one judges as well, and keeps its judges.
        "judges": (demand.rewards_gb if demand.num_processes > 1 else demand.judges_gb) * GB,
        "rows of an update": _row_bytes(demand, architecture),
        "activations": max(
            _beside_gradients(demand, passes, gradients, moments),
            # Rows are collected while there are no gradients.
            collected - gradients / shards - moments * (demand.training.steps == 1),
        ),
    }
    # Shards are cut, and averages with them, from weights that are whole on every GPU.
    averages = (demand.ema is not None) + demand.method.keeps_old_policy
    start = weights + weights / shards + MASTER_BYTES * trained * averages
    if shards > 1:
        later = (
            *("optimiser", "gradients", "averaged weights", "old policy"),
            *("communication", "activations"),
        )
        used = weights / shards + sum(rows[name] for name in later)
        rows["whole weights at the start"] = max(0.0, start - used)
    rows["set aside"] = CONTEXT_GB * GB + FRAGMENTATION * sum(rows.values())
    return {name: float(size) for name, size in rows.items() if size}


def _beside_gradients(demand: Demand, passes: Passes, gradients: float, moments: float) -> float:
    """Bytes at the peak of an update beyond all gradients and moments; 0 where those are it."""
    # One backward alone frees activations as it makes gradients, so that both never meet in full;
    # in shards gradients are small, and every activation counts.
    is_alone = demand.num_backwards <= 1 and demand.parallelism == "ddp"
    peak = passes.first if is_alone else passes.later
    # The first update makes the moments when its activations are gone.
    held = moments if demand.training.steps > 1 else 0.0
    return max(0.0, peak - gradients - moments + held)


def other_phases(
    demand: Demand, architecture: Architecture, sizes: Parameters, forward: float
) -> dict[str, float]:
    """Bytes at the peak of what is not training, on the first GPU; ``forward`` is of one row."""
    dtype, judges = BYTES[demand.model.dtype], demand.judges_gb * GB
    decode = architecture.vae_bytes(demand.model.resolution)
    model = dtype * (sizes.total + sizes.buffers) + 4 * architecture.vae_parameters + judges
    encoders = dtype * architecture.encoder_parameters + architecture.prompts_gb * GB
    phases = {
        "encoding": max(encoders * (architecture.encoder_parameters > 0) + judges, model + decode),
        "drawing": model + max(demand.drawn_rows * forward, decode),
        "judging": model + demand.judging_gb * GB,
    }
    return {name: CONTEXT_GB * GB + (1 + FRAGMENTATION) * n for name, n in phases.items()}


def _communicated(
    demand: Demand, weights: float, gradients: float, architecture: Architecture
) -> float:
    """Bytes of what one GPU gathers from, or sends to, the others at a time."""
    # A layer at work and the one that is fetched meanwhile.
    share = min(1.0, 2 / sum(architecture.layers))
    if demand.num_processes == 1:
        return 0.0
    match demand.parallelism:
        case "ddp":
            return min(gradients, BUCKET_BYTES)
        case "fsdp2":
            return share * (weights + gradients)
        case _:
            # ZeRO 2 keeps the gathered weights until the update is done.
            return weights + share * gradients


def _row_bytes(demand: Demand, architecture: Architecture) -> float:
    """Latents and conditions of the rows that a process holds at once, float32."""
    latents = math.prod(architecture.latent_shape(demand.model.resolution))
    shapes = architecture.condition_shapes(demand.model.max_sequence_length)
    condition = sum(map(math.prod, shapes.values()))
    count = demand.rows * demand.method.updates_per_collection
    held = demand.method.latents_held
    # Each with a copy of the empty prompt's.
    return float(MASTER_BYTES * count * (held * latents + 2 * condition))


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """What an update takes."""

    #: Model evaluations, over all GPUs; a backward counts as two.
    forward_equivalents: float
    seconds: float


def time_plan(demand: Demand, gpu: Gpu, *, forward_flops: float, utilisation: float) -> TimePlan:
    """Seconds of an update, at ``forward_flops`` a row and a share (0, 1] of the GPUs' peak."""
    forwards = demand.forward_equivalents
    # Gradient checkpointing repeats the forwards that a backward follows.
    if demand.training.gradient_checkpointing:
        forwards += demand.training.batch_size * demand.method.forwards_with_gradient()
    tflops = gpu.bf16_tflops if demand.training.mixed_precision == "bf16" else gpu.float32_tflops
    speed = tflops * 1e12 * utilisation * demand.num_processes
    return TimePlan(
        forward_equivalents=demand.forward_equivalents, seconds=forwards * forward_flops / speed
    )


def gigabytes(rows: Mapping[str, float]) -> float:
    """All of them together."""
    return sum(rows.values()) / GB
