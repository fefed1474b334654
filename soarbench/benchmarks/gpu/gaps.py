"""How long a GPU had nothing to do, by what torch's profiler saw of its kernels."""

from __future__ import annotations

from collections.abc import Iterable

from torch._C._autograd import DeviceType
from torch.profiler import profile

#: First and last moment, in one unit.
Interval = tuple[float, float]


def idle_share(intervals: Iterable[Interval]) -> float:
    """Share of the time, from the first start to the last end, in which nothing ran; 0..1.

    Intervals may overlap, as kernels on several streams do.
    """
    ordered = sorted(intervals)
    if not ordered:
        raise ValueError("no interval: the profiler saw nothing run on the device")
    first, reached = ordered[0]
    idle = 0.0
    for start, end in ordered:
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return idle / (reached - first) if reached > first else 0.0


def intervals_of(seen: profile, device: DeviceType = DeviceType.CUDA) -> list[Interval]:
    """When something ran on a device, nanoseconds."""
    assert seen.profiler is not None
    assert seen.profiler.kineto_results is not None
    return [
        (float(event.start_ns()), float(event.start_ns() + event.duration_ns()))
        for event in seen.profiler.kineto_results.events()
        if event.device_type() == device
    ]
