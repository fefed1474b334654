import math

import pytest
import torch

from baselines.base import Policies, World
from baselines.flow import add_noise
from baselines.groups import prompt_ids
from baselines.online_dpo import preference_loss
from baselines.online_dpo_config import OnlineDpoConfig
from baselines.schedule import StaticShift
from tests.baselines.method_toys import ToyModel, backward, generators, toy_batch

REWARDS = [1.0, 5.0, 2.0, 7.0, 2.0, 2.0]  # of toy_batch(6): prompts 0, 1, 2, 0, 1, 2


def method(*, rewards=REWARDS, **world):
    settings = OnlineDpoConfig(group_size=2, num_inference_steps=4, guidance_scale=1.0, beta=4.0)
    reward = lambda *_: list(rewards)  # noqa: E731
    return settings.build(
        World(schedule=StaticShift(3.0), latent_shape=(2,), reward=reward, **world)
    )


def test_a_preference_by_hand():
    errors = (torch.tensor([value]) for value in (1.0, 2.0, 1.5, 2.25))
    # The chosen one got better by 0.5, the rejected one by 0.25: -4 / 2 of -0.25.
    expected = math.log1p(math.exp(-0.5))
    assert preference_loss(*errors, 4.0).item() == pytest.approx(expected)


def test_a_pair_is_the_best_and_the_worst_of_a_group_whose_rewards_differ():
    batch = method().collect(Policies(ToyModel()), toy_batch(6), generators(6)).batch
    assert batch["active"].tolist() == [False, True, False, True, False, False]
    assert torch.equal(batch["rejected"][[1, 3]], batch["x0"][[4, 0]])


def test_where_policy_and_reference_are_equal_the_loss_is_log_2():
    ours, model = method(), ToyModel()
    batch = ours.collect(Policies(model), toy_batch(6), generators(6)).batch
    loss, metrics = backward(ours, model, batch, reference=ToyModel())
    assert loss == pytest.approx(math.log(2), abs=1e-7)
    assert metrics["train/preference_accuracy"] == 0


def test_a_step_lowers_the_chosen_error_and_raises_the_rejected_one():
    ours, model = method(), ToyModel()
    batch = ours.collect(Policies(model), toy_batch(6), generators(6)).batch.select([1, 3])

    def errors():
        parts = []
        for x0 in (batch["x0"], batch["rejected"]):
            latents = add_noise(x0, batch["noise"], batch["sigma"])
            v = model(latents, batch["sigma"], batch.condition)
            parts.append((v - (batch["noise"] - x0)).square().mean(1))
        return torch.stack(parts)

    before = errors()
    backward(ours, model, batch, reference=ToyModel())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad
    chosen, rejected = (errors() - before).sum(1)
    assert chosen < rejected


def test_a_pair_may_be_spread_over_processes():
    whole = method().collect(Policies(ToyModel()), toy_batch(6), generators(6)).batch
    gathered = {6: whole["x0"]}

    def gather(value):
        if value.ndim == 2:
            return gathered[6]
        rewards = value.dtype == torch.float64
        both = torch.tensor(REWARDS, dtype=torch.float64) if rewards else prompts
        return both

    prompts = prompt_ids(toy_batch(6).prompts)
    for rank, rows in enumerate(([0, 1, 2], [3, 4, 5])):
        mine = method(rewards=[REWARDS[i] for i in rows], rank=rank, gather=gather)
        rngs = [generators(6)[i] for i in rows]
        part = mine.collect(Policies(ToyModel()), toy_batch(6).select(rows), rngs).batch
        assert torch.equal(part["active"], whole["active"][rows])
        active = part["active"]
        assert torch.equal(part["rejected"][active], whole["rejected"][rows][active])


def test_a_reference_is_asked_for():
    ours, model = method(), ToyModel()
    batch = ours.collect(Policies(model), toy_batch(6), generators(6)).batch
    with pytest.raises(ValueError, match="Online DPO needs a reference model"):
        list(ours.losses(Policies(model), batch))
