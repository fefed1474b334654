"""Updates of the real loop on random rows: their time, memory and gaps, and what a resume gives."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from soarbench.benchmarks.full_size import (
    planned_bytes,
    random_transformer,
    require_memory,
    take_updates,
)
from soarbench.benchmarks.gpu.gaps import idle_share, intervals_of
from soarbench.planning.fake_transformer import MetaModel
from soarbench.planning.memory_and_time import GB, Demand, Gpu

#: Updates that warm up, and those that are timed after them.
WARM_UPS, TIMED = 2, 5
#: Of the run that is interrupted half-way.
RESUMED_UPDATES = 4
#: What the first update of a method that compares policies says: no ratio is off 1 then, and no
#: distance off 0, unless kernels give other bits with gradients than without.
FIRST = ("train/ratio_deviation", "train/clip_fraction", "train/kl")
#: Layers of one attention, and of two, of the model that is trained twice.
FEW_LAYERS = (2, 1)
Values = Mapping[str, object]
#: Takes numbers as soon as there are some: what comes after may fail, or be cut off.
Report = Callable[[Values], None]


class Enough(Exception):
    """All updates that are asked for are taken; what a run writes at its end is not waited for."""


@dataclass
class Clock:
    """An ``on_log`` that notes when updates end, profiles one more where it can, and stops."""

    device: torch.device
    report: Report
    warm_ups: int = WARM_UPS
    timed: int = TIMED
    ends: list[float] = field(default_factory=list)
    _profile: profile | None = None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Note the end of an update; raises ``Enough`` after the last."""
        if self._profile is not None:
            self._stop_profile()
        _wait(self.device)
        self.ends.append(time.perf_counter())
        if step == 1:
            self.report({f"first {name}": values[name] for name in FIRST if name in values})
        if step == self.warm_ups and self.device.type == "cuda":
            # What an update needs, and not what building the model did.
            torch.cuda.reset_peak_memory_stats(self.device)
        if step == self.warm_ups + self.timed:
            self.report(self._timed() | {"loss": values["train/loss"]})
            self._start_profile()

    def _start_profile(self) -> None:
        """Of one update, which is not timed: the profiler takes time itself."""
        if self.device.type != "cuda":
            raise Enough
        self._profile = profile(activities=[ProfilerActivity.CUDA])
        self._profile.start()

    def _stop_profile(self) -> None:
        assert self._profile is not None
        _wait(self.device)
        self._profile.stop()
        self.report({"idle_share": idle_share(intervals_of(self._profile))})
        raise Enough

    def _timed(self) -> dict[str, object]:
        """Seconds of an update, the first ones left out, and memory."""
        seconds = [end - start for start, end in pairwise(self.ends[self.warm_ups - 1 :])]
        middle = median(seconds)
        spread = (max(seconds) - min(seconds)) / middle
        values = {"seconds": middle, "spread": spread, "all_seconds": seconds}
        return values | peak_memory(self.device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """GB since the last reset: of tensors, and of what the allocator took; empty on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "peak_gb": torch.cuda.max_memory_allocated(device) / GB,
        "reserved_gb": torch.cuda.max_memory_reserved(device) / GB,
    }


def measure_updates(demand: Demand, device: torch.device, gpu: Gpu | None, report: Report) -> None:
    """Time, memory and utilisation of a method's update; ``UserError`` where it does not fit."""
    planned = planned_bytes(demand)
    require_memory(planned, device)
    report({"planned_gb": planned / GB})

    def passed_on(values: Values) -> None:
        report(values)
        if "seconds" in values:
            report(derived(values, demand, planned, gpu))

    clock = Clock(device, passed_on)
    # One more than are taken: none of them writes a checkpoint, gigabytes of all weights.
    steps = clock.warm_ups + clock.timed + 2
    training = replace(
        demand.training,
        steps=steps,
        save_steps=None,
        save_minutes=None,
        num_snapshots=0,
        logging_steps=1,
    )
    with device:
        transformer = random_transformer(demand.model.architecture(), _dtype(demand))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        take_updates(replace(demand, training=training), transformer, clock, Path(folder))


def derived(values: Values, demand: Demand, planned: float, gpu: Gpu | None) -> dict[str, float]:
    """What follows from seconds and peak: rates, utilisation, and the plan's error."""
    seconds, peak = float(str(values["seconds"])), values.get("peak_gb")
    rate = {"rows_per_second": demand.training.batch_size / seconds}
    ratio = {} if peak is None else {"peak_over_plan": float(str(peak)) * GB / planned}
    return rate | ratio | utilisation(demand, seconds, gpu)


def utilisation(demand: Demand, seconds: float, gpu: Gpu | None) -> dict[str, float]:
    """TFLOP/s of an update, without and with what checkpointing repeats, and their share of peak.

    MFU counts forwards and backwards that the method needs; HFU also recomputed forwards.
    """
    architecture = demand.model.architecture()
    meta = MetaModel(architecture, demand.model, demand.training, demand.lora)
    needed = demand.forward_equivalents
    rows, is_repeated = demand.training.batch_size, demand.training.gradient_checkpointing
    repeated = rows * demand.method.forwards_with_gradient() if is_repeated else 0.0
    flops = meta.forward_flops()
    values = {"tflops": needed * flops / seconds / 1e12}
    if gpu is None:
        return values
    is_mixed = demand.training.mixed_precision == "bf16"
    peak = 1e12 * (gpu.bf16_tflops if is_mixed else gpu.float32_tflops)
    hfu = (needed + repeated) * flops / seconds / peak
    return values | {"mfu": needed * flops / seconds / peak, "hfu": hfu}


class Interrupted(Exception):
    """As a process that is ended."""


def measure_resume(demand: Demand, device: torch.device, _: Gpu | None, report: Report) -> None:
    """How far weights are apart after the same updates: run twice, and once interrupted."""
    # Run twice first: what differs without an interruption is not the resume's fault.
    train = partial(_trained, demand, device)
    straight = train(is_interrupted=False)
    again = difference(straight, train(is_interrupted=False))
    report({f"again, {name}": value for name, value in again.items()})
    resumed = difference(straight, train(is_interrupted=True))
    report({f"resumed, {name}": value for name, value in resumed.items()})


def _trained(demand: Demand, device: torch.device, *, is_interrupted: bool) -> list[Tensor]:
    """Weights of a few layers of the model's width after some updates."""
    half = RESUMED_UPDATES // 2
    training = replace(
        demand.training, steps=RESUMED_UPDATES, save_steps=half, num_snapshots=0, logging_steps=1
    )
    demand = replace(demand, training=training)

    def interrupt(step: int, _: Mapping[str, float]) -> None:
        if step > half:
            raise Interrupted

    def go_on(_step: int, _: Mapping[str, float]) -> None:
        pass

    with tempfile.TemporaryDirectory() as folder:
        if is_interrupted:
            with contextlib.suppress(Interrupted):
                take_updates(demand, _small(demand, device), interrupt, Path(folder))
        transformer = _small(demand, device)
        take_updates(demand, transformer, go_on, Path(folder))
    return [parameter.detach().float().cpu() for parameter in transformer.parameters()]


def _small(demand: Demand, device: torch.device) -> nn.Module:
    with device:
        small = demand.model.architecture().with_layers(FEW_LAYERS)
        return random_transformer(small, _dtype(demand))


def difference(one: list[Tensor], other: list[Tensor]) -> dict[str, float]:
    """The largest difference of two lists of weights, and the share of them that differ at all."""
    pairs = list(zip(one, other, strict=True))
    differing = sum(int((a != b).sum()) for a, b in pairs)
    return {
        "largest difference": max(float((a - b).abs().max()) for a, b in pairs),
        "share of weights": differing / sum(a.numel() for a, _ in pairs),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _dtype(demand: Demand) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, demand.model.dtype)
    return dtype
