"""Batches are bounded by size, and reach a GPU without a wait."""

import pytest
import torch

from evaluators.batches import at_once
from evaluators.devices import on_device


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(16, 1, 16), (16, 512**2, 16), (16, 1024**2, 4), (16, 4096**2, 1), (1, 768**2, 1), (9, 0, 9)],
)
def test_what_is_larger_than_usual_goes_in_smaller_batches(count, size, expected):
    assert at_once(count, size, usual=512**2) == expected


class Host:
    """A tensor of the CPU that notes what is asked of it."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self):
        self.calls = []

    def pin_memory(self):
        self.calls.append("pinned")
        return self

    def to(self, where, *, non_blocking=None):
        self.calls.append((where, non_blocking))
        return self


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_copy_to_a_gpu_is_pinned_waits_for_nothing_and_is_cast_there(dtype):
    tensor, device = Host(), torch.device("cuda", 0)
    on_device(tensor, device, dtype)
    assert tensor.calls == ["pinned", (device, True), (dtype or torch.float32, None)]


def test_on_the_cpu_a_tensor_stays_what_it_is():
    tensor = torch.rand(3)
    assert on_device(tensor, torch.device("cpu")) is tensor
    assert on_device(tensor, torch.device("cpu"), torch.bfloat16).dtype == torch.bfloat16
