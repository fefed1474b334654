import pytest
import torch

from baselines.base import Policies, World
from baselines.best_of_group_config import BestOfGroupConfig
from baselines.groups import group_ranks
from baselines.schedule import StaticShift
from baselines.sft import Sft
from baselines.sft_config import SftConfig
from tests.baselines.method_toys import ToyModel, backward, generators, gradients, toy_batch

REWARDS = [1.0, 5.0, 2.0, 7.0, 2.0, 0.5]  # of toy_batch(6): prompts 0, 1, 2, 0, 1, 2


def method(*, rewards=REWARDS, **config):
    settings = BestOfGroupConfig(**{"group_size": 2, "num_inference_steps": 4, **config})
    reward = lambda *_: list(rewards)  # noqa: E731
    return settings.build(World(schedule=StaticShift(3.0), latent_shape=(2,), reward=reward))


def test_places_in_groups():
    index = torch.tensor([0, 1, 0, 1, 0])
    rewards = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0])
    assert group_ranks(rewards, index).tolist() == [2, 0, 0, 1, 1]


def test_the_best_of_every_group_are_kept():
    collected = method().collect(Policies(ToyModel()), toy_batch(6), generators(6))
    assert collected.batch["active"].tolist() == [False, True, True, True, False, False]
    assert collected.metrics["rollout/kept_reward_mean"] == pytest.approx((7 + 5 + 2) / 3)
    equal = method(rewards=[0.0] * 6).collect(Policies(ToyModel()), toy_batch(6), generators(6))
    assert equal.batch["active"].tolist() == [True] * 3 + [False] * 3


def test_with_all_kept_it_is_sft_on_the_models_own_images():
    model, ours = ToyModel(), method(keep=2)
    batch = ours.collect(Policies(model), toy_batch(6), generators(6)).batch
    loss, metrics = backward(ours, model, batch)
    gradient = gradients(model)
    theirs, sft_metrics = backward(Sft(SftConfig(), schedule=StaticShift(3.0)), model, batch)
    assert (loss, metrics) == (theirs, sft_metrics)
    assert torch.equal(gradient, gradients(model))


def test_what_is_not_kept_has_no_part_in_the_gradient():
    model, ours = ToyModel(), method()
    batch = ours.collect(Policies(model), toy_batch(6), generators(6)).batch
    backward(ours, model, batch)
    whole = gradients(model)
    backward(ours, model, batch.select([1, 2, 3]))
    assert torch.equal(whole, gradients(model))
    assert ours.weight(batch.select([0, 4])) == 0
    # A micro-batch that another process needs is run, and adds nothing.
    (term,) = ours.losses(Policies(model), batch.select([0, 4]))
    assert term.loss_sum.item() == 0


@pytest.mark.parametrize("keep", [0, 25])
def test_keeping_more_than_the_group_is_refused(keep):
    with pytest.raises(ValueError, match=rf"keep = {keep} is not possible: use 1\.\.24"):
        BestOfGroupConfig(keep=keep)


def test_one_update_takes_all_rows_of_a_rollout():
    with pytest.raises(ValueError, match="updates_per_collection = 2 is not possible"):
        BestOfGroupConfig(updates_per_collection=2)
