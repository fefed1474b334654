"""One measurement of ``bench`` in a process of its own, so that its peak memory is its own.

``python -m soarbench.benchmarks.worker KIND key=value ...`` prints one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from torch import Tensor, nn

from baselines.base import Policies
from baselines.loop.post_train import post_train
from baselines.loop.stream import Row, row_generator
from baselines.soar import Soar
from evaluators.base import Sample
from soarbench.benchmarks.memory import PeakMemory
from soarbench.benchmarks.naive_soar import naive_soar_loss
from soarbench.diagnostics.probes import batch_of
from soarbench.evaluation.selection import suite_images
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import expand
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.models.base import ImageModel

#: Updates that are timed, after those that warm up.
TIMED_UPDATES = 3

Result = dict[str, float]


def random_rows(cell: CellConfig, model: ImageModel) -> list[Row]:
    """An update's rows: real prompts, random latents; their content does not change the speed."""
    assert cell.training is not None
    plan = [item for suite in cell.suites.values() for item, _ in suite_images(suite)]
    prompts = [plan[i % len(plan)].prompt for i in range(cell.training.batch_size)]
    condition = model.encode_prompts(prompts)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(len(prompts), *model.latent_shape, generator=generator)
    return [
        {
            "x0": x0[i],
            "condition": {name: value[i] for name, value in condition.items()},
            "prompt": prompt,
            "columns": {},
        }
        for i, prompt in enumerate(prompts)
    ]


def measure_training(cell: CellConfig, workbench: ModelWorkbench) -> Result:
    """Seconds an update (the fastest counts) and peak memory of a method in the real loop."""
    assert cell.method is not None
    assert cell.training is not None
    assert cell.optim is not None
    # Flow-GRPO collects once for several updates: whole cycles are timed, and one warms up.
    unit = cell.method.updates_per_collection
    updates = unit + -(-TIMED_UPDATES // unit) * unit
    training = replace(
        cell.training,
        steps=updates,
        save_steps=None,
        save_minutes=None,
        num_snapshots=0,
        logging_steps=1,
    )
    model = workbench.models.load(cell)
    rows, negative = random_rows(cell, model), model.encode_prompts([""])
    prepared = workbench.method(cell, model)
    stamps: list[float] = []
    peaks: list[float] = []
    memory = PeakMemory(workbench.device)

    def on_log(_step: int, _values: Mapping[str, float]) -> None:
        stamps.append(time.perf_counter())
        peaks.append(memory.above_idle())  # before the last update's checkpoint is written

    with tempfile.TemporaryDirectory() as folder:
        summary = post_train(
            model.transformer,
            prepared,
            rows,
            training,
            Path(folder),
            optim=cell.optim,
            lora=cell.lora,
            ema=cell.ema,
            seed=0,
            velocity_of=model.velocity,
            negative_condition=negative,
            on_log=on_log,
            console=Console(quiet=True),
        )
    ends = stamps[unit - 1 :: unit]
    return {
        # Other work on the machine only ever adds time, so the least is the nearest to the truth.
        "seconds": min((end - start) / unit for start, end in itertools.pairwise(ends)),
        "peak_mib": peaks[-1],
        "forward_equivalents": summary.forward_equivalents / updates,
        "rows": float(cell.training.batch_size),
    }


class SoarSteps:
    """One SOAR update without the loop around it: ours, and written the obvious way."""

    def __init__(self, cell: CellConfig, workbench: ModelWorkbench) -> None:
        assert cell.optim is not None
        self.device = workbench.device
        self.max_grad_norm = cell.optim.max_grad_norm
        model = workbench.models.load(cell)
        self.transformer = model.transformer.requires_grad_(True).train()
        self.velocity = model.velocity()
        self.method = cast(Soar, workbench.method(cell, model))
        rows = batch_of(random_rows(cell, model), model)
        # Drawn once: both forms get the same levels and noise, or their losses could not be equal.
        generators = [row_generator(0, position) for position in rows.positions]
        self.batch = self.method.collect(Policies(self.velocity), rows, generators).batch
        # The weights stay as they are, so that every step computes the same.
        self.optimizer = torch.optim.AdamW(self.transformer.parameters(), lr=0.0)

    def backward(self, *, is_naive: bool) -> float:
        """Loss, with its gradient left on the parameters."""
        if is_naive:
            method = self.method
            sigma_max = method.schedule.sigma_max(self.batch["x0"].shape[1:])
            loss = naive_soar_loss(self.velocity, self.batch, method.config, sigma_max)
            loss.backward()
            return loss.item()
        weight, total = self.method.weight(self.batch), 0.0
        for term in self.method.losses(Policies(self.velocity), self.batch):
            # Term by term, as the loop does: each frees its graph before the next is built.
            (term.loss_sum / weight).backward()
            total += term.loss_sum.item() / weight
        return total

    def update(self, *, is_naive: bool) -> float:
        """Seconds of one whole update."""
        start = time.perf_counter()
        self.backward(is_naive=is_naive)
        nn.utils.clip_grad_norm_(self.transformer.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def gradient(self, *, is_naive: bool) -> tuple[float, Tensor]:
        """Loss and all gradients as one vector."""
        loss = self.backward(is_naive=is_naive)
        parts = [p.grad.flatten() for p in self.transformer.parameters() if p.grad is not None]
        gradient = torch.cat(parts)
        self.optimizer.zero_grad()
        return loss, gradient


def measure_step(cell: CellConfig, workbench: ModelWorkbench, *, is_naive: bool) -> Result:
    """Peak memory of SOAR's update, ours or the naive one, alone in this process."""
    steps = SoarSteps(cell, workbench)
    memory = PeakMemory(workbench.device)
    # The second has AdamW's moments and warm libraries, as all later ones have.
    for _ in range(2):
        steps.update(is_naive=is_naive)
    return {"peak_mib": memory.above_idle()}


def measure_race(cell: CellConfig, workbench: ModelWorkbench) -> Result:
    """Seconds of both updates, and how far their losses and gradients are apart."""
    steps = SoarSteps(cell, workbench)
    naive, ours = [], []
    # In turns, so that a busy machine slows both alike; the first of each warms up.
    for _ in range(1 + TIMED_UPDATES):
        naive.append(steps.update(is_naive=True))
        ours.append(steps.update(is_naive=False))
    expected, reference = steps.gradient(is_naive=True)
    loss, gradient = steps.gradient(is_naive=False)
    return {
        "naive": min(naive[1:]),
        "step": min(ours[1:]),
        "loss_difference": abs(loss - expected) / abs(expected),
        "gradient_difference": ((gradient - reference).norm() / reference.norm()).item(),
    }


def measure_judging(cell: CellConfig, workbench: ModelWorkbench) -> Result:
    """Images a second of sampling and of every evaluator; ``cell`` is the base model's."""
    plan = [(suite, pair) for suite in cell.suites.values() for pair in suite_images(suite)]
    size = cell.sampling.images_at_once(cell.model.resolution)
    chosen = [plan[i * len(plan) // size] for i in range(size)]
    batch = [pair for _, pair in chosen]
    draw = workbench.drawer(cell, 0)
    images = draw(batch)  # warms up as well
    rates = {"sampling": _a_second(partial(draw, batch))}
    samples = [
        Sample(
            sample_id=str(place),
            prompt_id=item.prompt_id,
            prompt=item.prompt,
            image=image,
            metadata=item.metadata,
        )
        for place, ((item, _), image) in enumerate(zip(batch, images, strict=True))
    ]
    for name in cell.judges:
        # Only those of suites that name it: GenEval reads no other suite's demands.
        asked = [samples[i] for i, (suite, _) in enumerate(chosen) if name in suite.judges]
        rates[name] = _a_second(partial(workbench.evaluator(cell, name).score, asked))
    return rates


def _a_second(work: Callable[[], Sequence[object]]) -> float:
    start = time.perf_counter()
    return len(work()) / (time.perf_counter() - start)


def main(arguments: Sequence[str]) -> int:
    """Measure one thing and print it as JSON."""
    kind, *overrides = arguments
    grid = expand(overrides)
    workbench = ModelWorkbench(grid.settings.device, grid.store)
    # Of several cells of a method, the first.
    cells = {cell.method_name: cell for cell in reversed(grid.cells)}
    if kind == "judging":
        result = measure_judging(cells["base"], workbench)
    elif kind == "race":
        result = measure_race(cells["soar"], workbench)
    elif kind in ("step", "naive"):
        result = measure_step(cells["soar"], workbench, is_naive=kind == "naive")
    else:
        result = measure_training(cells[kind], workbench)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
