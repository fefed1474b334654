"""What each process of the parity test runs: ``python -m tests.baselines.two_processes FOLDER``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather

from baselines.base import Method
from baselines.config import OptimConfig
from tests.baselines.toys import LORA, PlaneRows, flow_grpo, run, run_config, sft, soar

#: Name -> (method, changes of the configuration).
CASES: dict[str, tuple[Callable[..., Method], dict[str, object]]] = {
    "sft": (sft, {}),
    "soar": (soar, {"micro_batch_size": 2}),
    "flow_grpo": (flow_grpo, {"steps": 6}),
    # One group over both processes, with a reference that is the adapter switched off.
    "flow_grpo_spread": (
        partial(flow_grpo, group_size=8, updates_per_collection=1),
        {"lora": LORA},
    ),
}


class CountedRows(PlaneRows):
    """Remembers which rows this process read."""

    def __init__(self, *, with_x0: bool):
        super().__init__(64, with_x0=with_x0)
        self.seen: list[int] = []

    def __getitem__(self, index: int):
        self.seen.append(index)
        return super().__getitem__(index)


def train(name: str, folder: Path, *, rank: int = 0):
    """Run one case. -> weights, summary, logs, rows read."""
    make, changes = CASES[name]
    is_flow_grpo = name.startswith("flow_grpo")
    method = make(gather=gather, rank=rank) if is_flow_grpo else make()
    rows = CountedRows(with_x0=not is_flow_grpo)
    optim = OptimConfig(learning_rate=1e-3)
    config = run_config(
        **{"steps": 5, "save_steps": 2, "logging_steps": 1, "optim": optim} | changes
    )
    return *run(folder / name, method, config, rows=rows), rows.seen


if __name__ == "__main__":
    target, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.set_num_threads(1)
    gc.freeze()
    for case in CASES:
        weights, summary, logs, seen = train(case, target, rank=rank)
        found = {"weights": weights, "loss": {}, "seen": seen, "images": summary.images_seen}
        found["loss"] = {step: point["train/loss"] for step, point in logs.points.items()}
        found["reward_calls"] = summary.reward_calls
        found["forward_equivalents"] = summary.forward_equivalents
        torch.save(found, target / f"{case}-{rank}.pt")
    torch.distributed.destroy_process_group()
