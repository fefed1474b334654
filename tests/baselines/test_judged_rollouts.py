"""Rewards that run elsewhere are computed while the next part is rolled out, with equal results."""

import threading
from dataclasses import replace

import pytest
import torch

from baselines import judged_rollouts
from baselines.base import Policies
from baselines.rewards.base import RewardError
from tests.baselines.method_toys import ToyModel, generators, toy_batch
from tests.baselines.test_flow_grpo import first_element, flow_grpo

PARTS = [[0, 3, 5], [1, 2], [4, 6, 7]]
STEPS = 4


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    monkeypatch.setattr(judged_rollouts, "JUDGED_TOGETHER", 2)


def collect(reward, *, elsewhere, model=None, decode=lambda latents: latents):
    method = flow_grpo(reward=reward)
    method.world = replace(method.world, decode=decode, is_reward_elsewhere=elsewhere)
    batch = replace(toy_batch(8), parts=PARTS)
    return method.collect(Policies(ToyModel() if model is None else model), batch, generators(8))


def is_judging():
    return any(thread.name.startswith("reward") for thread in threading.enumerate())


def test_results_are_equal_wherever_the_reward_runs():
    here = collect(first_element, elsewhere=False)
    there = collect(first_element, elsewhere=True)
    assert here.metrics == there.metrics
    assert here.batch.tensors.keys() == there.batch.tensors.keys()
    for name, value in here.batch.tensors.items():
        assert torch.equal(value, there.batch[name]), name


def test_a_part_is_judged_while_the_next_is_rolled_out():
    judging, rolling = threading.Event(), threading.Event()
    model, calls, judged = ToyModel(), [], []

    def velocity(*arguments):
        calls.append(len(judged))
        if len(calls) > STEPS:
            assert judging.wait(20), "the second part began, and the first is not judged"
            rolling.set()
        return model(*arguments)

    def reward(_prompts, latents, columns):
        judging.set()
        assert rolling.wait(20), "nothing is rolled out while the first part is judged"
        assert not torch.is_grad_enabled()
        judged.append(columns["row"])
        return first_element(_prompts, latents, columns)

    collect(reward, elsewhere=True, model=velocity)
    assert judged == PARTS
    assert len(calls) == STEPS * len(PARTS)
    assert not is_judging()


def test_here_all_images_are_judged_at_once_in_the_order_of_the_rows():
    seen = []

    def reward(_prompts, latents, columns):
        seen.append((columns["row"], len(latents)))
        return first_element(_prompts, latents, columns)

    collect(reward, elsewhere=False)
    assert seen == [(list(range(8)), 8)]


def test_as_many_images_are_judged_together_as_judges_take(monkeypatch):
    monkeypatch.setattr(judged_rollouts, "JUDGED_TOGETHER", 4)
    judged = []

    def reward(_prompts, latents, columns):
        judged.append(columns["row"])
        return first_element(_prompts, latents, columns)

    collect(reward, elsewhere=True)
    assert judged == [[*PARTS[0], *PARTS[1]], PARTS[2]]


def test_decoding_stays_in_the_main_thread():
    threads = []

    def decode(latents):
        threads.append(threading.current_thread())
        return latents

    collect(first_element, elsewhere=True, decode=decode)
    assert threads == [threading.main_thread()] * len(PARTS)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("fault", ["raises", "short"])
def test_a_reward_that_fails_is_heard(elsewhere, fault):
    def broken(*_):
        if fault == "raises":
            raise RewardError("reward 'broken' could not score image 0")
        return [1.0]

    with pytest.raises(RewardError, match="'broken'"):
        collect(broken, elsewhere=elsewhere)
    assert not is_judging()


def test_an_interruption_ends_the_thread():
    model, calls = ToyModel(), []

    def velocity(*arguments):
        calls.append(1)
        if len(calls) > 2 * STEPS:
            raise KeyboardInterrupt
        return model(*arguments)

    with pytest.raises(KeyboardInterrupt):
        collect(first_element, elsewhere=True, model=velocity)
    assert not is_judging()
