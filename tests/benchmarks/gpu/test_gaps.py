"""The share of an update in which a GPU had nothing to do, on traces known beforehand."""

from __future__ import annotations

import pytest
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from soarbench.benchmarks.gpu.gaps import idle_share, intervals_of


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0, 4), (4, 10)], 0.0),
        ([(0, 4), (6, 10)], 0.2),
        # Out of order, on two streams, and one kernel within another.
        ([(6, 10), (0, 4), (1, 5), (2, 3)], 0.1),
        ([(3, 3)], 0.0),
    ],
)
def test_gaps_are_what_no_interval_covers(
    intervals: list[tuple[float, float]], expected: float
) -> None:
    assert idle_share(intervals) == pytest.approx(expected)


def test_a_trace_without_kernels_is_no_idle_gpu() -> None:
    with pytest.raises(ValueError, match="saw nothing run"):
        idle_share([])


def test_intervals_are_read_from_a_profile() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        torch.ones(64, 64) @ torch.ones(64, 64)
    intervals = intervals_of(seen, DeviceType.CPU)
    assert intervals
    assert all(start <= end for start, end in intervals)
    assert intervals_of(seen, DeviceType.CUDA) == []
