"""Gradients travel in the same buckets and order in every process, whatever each of them ran."""

import pytest
import torch
from torch import nn

from baselines.loop.reduction import Reduction, in_buckets


class Doubled:
    """Stands for a second process that has the same gradients; notes what travels."""

    def __init__(self):
        self.sizes = []

    def __call__(self, flat, *, async_op):
        assert async_op
        self.sizes.append(len(flat))
        flat *= 2
        return self

    def wait(self):
        pass


@pytest.fixture
def network(monkeypatch):
    network = Doubled()
    monkeypatch.setattr(torch.distributed, "all_reduce", network)
    return network


def parameters():
    return [nn.Parameter(torch.full((size,), float(size))) for size in (3, 5, 2, 4)]


def test_a_bucket_is_closed_by_the_parameter_that_fills_it():
    trained = parameters()
    sizes = [[len(p) for p in bucket] for bucket in in_buckets(trained, 4 * 6)]
    assert sizes == [[3, 5], [2, 4]]
    assert [len(bucket) for bucket in in_buckets(trained, 4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 1, 2, 3), (1, 3, 0, 2)])
@pytest.mark.parametrize("is_overlapped", [True, False])
def test_buckets_travel_in_one_order(network, order, is_overlapped):
    trained = parameters()
    reduction = Reduction(trained, size=4 * 6)
    if is_overlapped:
        reduction.start()
    for place in order:  # as a backward reaches them
        trained[place].square().sum().backward()
    assert bool(network.sizes) == is_overlapped
    users = reduction.finish()
    # From the last parameter on, and a count of users each.
    assert network.sizes == [4 + 2 + 2, 5 + 3 + 2]
    assert users.tolist() == [2, 2, 2, 2]
    for parameter in trained:
        assert torch.equal(parameter.grad, 4 * parameter.detach())


def test_what_nobody_used_is_told(network):
    trained = parameters()
    reduction = Reduction(trained, size=4 * 6)
    reduction.start()
    (trained[0].sum() + trained[3].sum()).backward()
    assert network.sizes == [], "the first bucket waits for a parameter that is not used"
    assert reduction.finish().tolist() == [2, 0, 0, 2]
    assert trained[1].grad.tolist() == [0.0] * 5
    assert trained[3].grad.tolist() == [2.0] * 4


def test_a_later_backward_is_not_watched(network):
    trained = parameters()
    reduction = Reduction(trained, size=4 * 6)
    reduction.start()
    reduction.finish()
    trained[3].sum().backward()
    assert len(network.sizes) == 2
