"""What each process of the parity tests runs.

``python -m tests.baselines.loop.two_processes FOLDER PARALLELISM CASE...``
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather
from torch import nn

from baselines.base import Method
from baselines.config import EmaConfig, LoraConfig, OptimConfig
from baselines.loop.sharding import end_process, local
from soarbench.models.sd3.config import Sd3Config
from tests.baselines.loop.test_trainer_sd3 import run as train_sd3
from tests.baselines.toys import (
    LORA,
    RIVALS,
    PlaneRows,
    flow_grpo,
    plane_model,
    rival,
    run,
    run_config,
    sft,
    soar,
)
from tests.models.families import FAMILIES
from tests.models.families import train as train_on

ROOT = Path(__file__).parents[3]
EMA = EmaConfig(decay=0.5, every=1)


def one_group_in_three(prompts, latents, _columns) -> list[float]:
    """Rewards that differ within a third of the groups only, so that some chunks have no loss."""
    values = latents.square().sum(1).tolist()
    numbers = (int(prompt.rpartition(" ")[2]) for prompt in prompts)
    return [v if n % 3 == 0 else 0.0 for v, n in zip(values, numbers, strict=True)]


#: Name -> (method, changes of the configuration).
CASES: dict[str, tuple[Callable[..., Method], dict[str, object]]] = {
    "sft": (sft, {"ema": EMA, "num_snapshots": 1}),
    "soar": (soar, {"micro_batch_size": 2}),
    "flow_grpo": (flow_grpo, {"steps": 6}),
    # One group over both processes, with a reference that is the adapter switched off.
    "flow_grpo_spread": (
        partial(flow_grpo, group_size=8, updates_per_collection=1),
        {"lora": LORA, "ema": EMA, "num_snapshots": 1},
    ),
    # Chunks without a loss, at different places in the two processes.
    "flow_grpo_silent": (
        partial(flow_grpo, group_size=2, reward=one_group_in_three),
        {"steps": 6, "micro_batch_size": 2},
    ),
    # Groups and pairs over both processes, whose chunks may all be empty in one of them.
    "diffusion_nft": (partial(rival, "diffusion_nft"), {"steps": 6, "ema": EMA, "lora": LORA}),
    "awm": (partial(rival, "awm"), {"steps": 6, "num_snapshots": 1}),
    "best_of_group": (partial(rival, "best_of_group"), {"steps": 6, "micro_batch_size": 2}),
    "online_dpo": (partial(rival, "online_dpo"), {"steps": 6, "micro_batch_size": 2}),
    "resumed": (soar, {"ema": EMA, "num_snapshots": 1}),
}
#: On SD3's own class: name -> changes of the configuration.
SD3_CASES: dict[str, dict[str, object]] = {
    "sd3": {"ema": EMA, "gradient_checkpointing": True, "num_snapshots": 1},
    "sd3_lora": {
        **{
            "lora": LoraConfig(rank=2, alpha=4.0, target_modules=Sd3Config.lora_targets),
            "num_snapshots": 1,
            "micro_batch_size": 1,
        },
        **{"dtype": torch.bfloat16, "mixed_precision": "bf16"},
    },
}
#: On every family but SD3's: case -> (family, method).
FAMILY_CASES = {
    "flux2_soar": ("flux2_klein", "soar"),
    "qwen_nft": ("qwen_image", "diffusion_nft"),
    "sana_sft": ("sana", "sft"),
    "z_image_grpo": ("z_image", "flow_grpo"),
}
#: In shards a family's layers are wrapped alike, and two of them show it.
IN_SHARDS = ("flux2_soar", "qwen_nft")


def train_family(case: str, folder: Path, *, rank: int = 0, **distributed) -> nn.Module:
    """Train a tiny model of a family, whose pipeline lies in the folder. -> it."""
    family, method = FAMILY_CASES[case]
    model = FAMILIES[family](folder / family)
    return train_on(model, method, folder / case, rank=rank, steps=3, batch_size=4, **distributed)


def in_groups(case: str) -> bool:
    """Whether a case makes its own images, in groups that processes share."""
    return case.startswith("flow_grpo") or case in RIVALS


class CountedRows(PlaneRows):
    """Remembers which rows this process read, and can end the run at one of them."""

    def __init__(self, *, with_x0: bool):
        super().__init__(64, with_x0=with_x0)
        self.seen: list[int] = []
        self.last: int | None = None

    def __getitem__(self, index: int):
        if len(self.seen) == self.last:
            raise KeyboardInterrupt
        self.seen.append(index)
        return super().__getitem__(index)


def train(name: str, folder: Path, *, rank: int = 0, parallelism: str = "ddp", cut: bool = False):
    """Run one case, interrupted after its first checkpoint and started again if ``cut``.

    -> weights, summary, logs, rows read, numbers that this process holds
    """
    make, changes = CASES[name]
    rolls_out = in_groups(name)
    rows = CountedRows(with_x0=not rolls_out)
    optim = OptimConfig(learning_rate=1e-3)
    config = run_config(
        **{"steps": 5, "save_steps": 2, "logging_steps": 1, "optim": optim} | changes
    )

    def once():
        model = plane_model()
        method = make(gather=gather, rank=rank) if rolls_out else make()
        found = run(folder / name, method, config, model=model, rows=rows, parallelism=parallelism)
        return *found, rows.seen, sum(local(p).numel() for p in model.parameters())

    if cut:
        # Every process has the rows of four updates when the second is done.
        rows.last = 4 * config["training"].rows_per_process(2)
        with contextlib.suppress(KeyboardInterrupt):
            once()
        rows.last, rows.seen = None, []
    return once()


def start(arguments: Sequence[str], module: str = "tests.baselines.loop.two_processes") -> None:
    """Run a module in two processes to its end, and fail with what they said."""
    # Served from here, as torchrun does: a port that is free now may be another test's when the
    # processes have imported torch.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": store.host, "MASTER_PORT": str(store.port)}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **shared, "OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


def main(folder: Path, parallelism: str, cases: Sequence[str]) -> None:
    """Run the cases and leave what they ended with."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    gc.freeze()
    for case in cases:
        if case in SD3_CASES:
            train_sd3(folder / case, parallelism=parallelism, **SD3_CASES[case])
            continue
        if case in FAMILY_CASES:
            train_family(case, folder, rank=rank, parallelism=parallelism, gather=gather)
            continue
        weights, summary, logs, seen, held = train(
            case, folder, rank=rank, parallelism=parallelism, cut=case == "resumed"
        )
        found = {"weights": weights, "loss": {}, "seen": seen, "images": summary.images_seen}
        found["loss"] = {step: point["train/loss"] for step, point in logs.points.items()}
        found["held"] = held
        found["reward_calls"] = summary.reward_calls
        found["forward_equivalents"] = summary.forward_equivalents
        torch.save(found, folder / f"{case}-{rank}.pt")
    end_process()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
