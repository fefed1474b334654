"""One update of the whole architecture in the real loop, with random weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from baselines.base import World
from baselines.loop.post_train import post_train
from baselines.loop.sharding import DDP
from baselines.loop.stream import Row
from baselines.loop.trainer import OnLog, TrainingSummary
from baselines.schedule import StaticShift
from soarbench.benchmarks.memory import PeakMemory, proc_bytes
from soarbench.common.errors import UserError
from soarbench.models.base import Architecture
from soarbench.planning.fake_transformer import transformer_of
from soarbench.planning.memory_and_time import GB, Demand
from soarbench.planning.planner import Planner


def planned_bytes(demand: Demand, planner: Planner | None = None) -> float:
    """What ``plan`` expects of one update, without what only a whole run on a GPU holds."""
    one = replace(demand.training, steps=1, save_steps=1, num_snapshots=0)
    rows = (planner or Planner()).memory(replace(demand, training=one, is_judged=False))
    absent = ("autoencoder", "judges", "set aside")
    return sum(size for name, size in rows.items() if name not in absent)


def require_memory(needed: float, device: torch.device) -> None:
    """``UserError`` where fewer bytes are free."""
    # Before anything is built: a machine whose memory is full stops answering, or its kernel ends
    # other people's processes.
    if device.type == "cuda":
        free = float(torch.cuda.mem_get_info(device)[0])
    else:
        free = proc_bytes("meminfo", "MemAvailable")
    if needed > free:
        raise UserError(
            f"the update needs {needed / GB:.1f} GB and {device} has {free / GB:.1f} free: use "
            "model.dtype=bfloat16, model.resolution=64 or another machine"
        )


class RandomRows:
    """Rows of the right shapes; their content changes neither time nor memory."""

    def __init__(self, demand: Demand, architecture: Architecture) -> None:
        self.shape = architecture.latent_shape(demand.model.resolution)
        self.count = demand.training.batch_size
        self.sizes = architecture.condition_shapes(demand.model.max_sequence_length)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        generator = torch.Generator().manual_seed(index)
        return {
            "x0": torch.randn(self.shape, generator=generator),
            "condition": self.condition(generator),
            "prompt": f"row {index}",
            "columns": {},
        }

    def condition(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Of one prompt, without a batch axis."""
        return {name: torch.randn(size, generator=generator) for name, size in self.sizes.items()}


def measure(demand: Demand, device: torch.device) -> dict[str, str]:
    """Build the model with random weights, take one update in the real loop, say what it took."""
    architecture = demand.model.architecture()
    memory = PeakMemory(device)
    start = time.perf_counter()
    transformer = random_transformer(architecture, getattr(torch, demand.model.dtype)).to(device)
    built = time.perf_counter() - start
    points: list[Mapping[str, float]] = []
    summary = one_update(demand, transformer, lambda _step, values: points.append(values))
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    return {
        "parameters, million": f"{parameters / 1e6:,.1f}",
        "seconds to build": f"{built:.1f}",
        "seconds of the update": f"{summary.seconds:.1f}",
        "forward equivalents": f"{summary.forward_equivalents:.0f}",
        # Of random weights: only that it is finite means something.
        "loss": f"{points[0]['train/loss']:.4f}",
        # With the weights, above the process before it built them.
        "peak memory, GB": f"{memory.above_idle() * 2**20 / GB:.2f}",
    }


def one_update(
    demand: Demand, transformer: nn.Module, on_log: OnLog, *, parallelism: str = DDP
) -> TrainingSummary:
    """Take one update of the real loop on random rows; ``post_train`` says what is raised."""
    training = replace(demand.training, steps=1, save_steps=None, num_snapshots=0)
    with tempfile.TemporaryDirectory() as folder:
        return take_updates(
            replace(demand, training=training),
            transformer,
            on_log,
            Path(folder),
            parallelism=parallelism,
        )


def take_updates(
    demand: Demand,
    transformer: nn.Module,
    on_log: OnLog,
    folder: Path,
    *,
    parallelism: str = DDP,
) -> TrainingSummary:
    """Train on random rows as the demand says, going on from a checkpoint in ``folder``."""
    architecture = demand.model.architecture()
    rows = RandomRows(demand, architecture)
    empty = rows.condition(torch.Generator().manual_seed(0))
    world = World(
        schedule=StaticShift(3.0),
        latent_shape=rows.shape,
        # What a judge takes is its own bench's question. Not all alike: Flow-GRPO leaves out groups
        # without spread, and with them the update that is measured.
        reward=lambda prompts, _latents, _columns: [float(i) for i in range(len(prompts))],
    )
    return post_train(
        transformer,
        demand.method.build(world),
        rows,
        demand.training,
        folder,
        optim=demand.optim,
        lora=demand.lora,
        ema=demand.ema,
        seed=0,
        velocity_of=architecture.velocity,
        negative_condition={name: value[None] for name, value in empty.items()},
        on_log=on_log,
        console=Console(quiet=True),
        parallelism=parallelism,
    )


def random_transformer(architecture: Architecture, dtype: torch.dtype) -> nn.Module:
    """The architecture with torch's own initial weights, seeded."""
    # No download: without the weights it is not known how good images are, but whether a model of
    # this size builds, fits and trains.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = transformer_of(architecture, dtype)
    return transformer.requires_grad_(False).eval()
