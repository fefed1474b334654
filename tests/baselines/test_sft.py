import pytest
import torch

from baselines.base import Policies
from baselines.flow import training_sigmas
from baselines.schedule import StaticShift
from baselines.sft import Sft
from baselines.sft_config import SftConfig
from tests.baselines.method_toys import (
    ConvModel,
    PathModel,
    backward,
    distances_while_learning,
    generators,
    gradients,
    toy_batch,
)


def collect(batch, *, seed=0, shift=3.0, **config):
    return Sft(SftConfig(**config), schedule=StaticShift(shift)).collect(
        None, batch, generators(len(batch), seed)
    )


def test_a_perfect_model_has_no_loss():
    batch = collect(toy_batch(5)).batch
    [term] = Sft(SftConfig(), schedule=StaticShift(3.0)).losses(
        Policies(PathModel(batch["x0"], batch["noise"])), batch
    )
    assert term.loss_sum.item() == 0
    assert Sft(SftConfig(), schedule=StaticShift(3.0)).weight(batch) == 5


def test_loss_by_hand():
    batch = toy_batch(2).with_tensors(
        x0=torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
        noise=torch.tensor([[1.0, 0.0], [3.0, 1.0]]),
        sigma=torch.tensor([0.5, 0.25]),
    )
    seen = {}

    def model(latents, sigma, _condition):
        seen.update(latents=latents, sigma=sigma)
        return torch.zeros_like(latents)

    [term] = Sft(SftConfig(), schedule=StaticShift(3.0)).losses(Policies(model), batch)
    # targets (0, -2) and (3, 1): mean squares 2 and 5
    assert term.loss_sum.item() == 7
    assert seen["latents"].tolist() == [[1.0, 1.0], [0.75, 0.25]]
    assert seen["sigma"].tolist() == [0.5, 0.25]


def test_draws_are_logit_normal_on_the_training_grid():
    batch = collect(toy_batch(4000), shift=3.0).batch
    logits = batch["t0"].logit()
    assert logits.mean().item() == pytest.approx(0, abs=0.06)
    assert logits.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(batch["sigma"], training_sigmas(batch["t0"], 3.0))
    assert batch["noise"].std().item() == pytest.approx(1, abs=0.03)


def test_collection_is_the_same_in_any_batch_and_the_same_twice():
    batch = toy_batch(6, (4, 2, 2))
    whole, again = collect(batch, condition_dropout=0.5), collect(batch, condition_dropout=0.5)
    part = Sft(SftConfig(condition_dropout=0.5), schedule=StaticShift(3.0)).collect(
        None, batch.select([4, 1]), [generators(6)[4], generators(6)[1]]
    )
    for name, value in whole.batch.tensors.items():
        assert torch.equal(value, again.batch[name])
        assert torch.equal(value[[4, 1]], part.batch[name])
    assert torch.equal(whole.batch.condition["label"][[4, 1]], part.batch.condition["label"])


def test_condition_dropout_is_drawn_for_each_sample():
    batch = toy_batch(2000)
    kept = collect(batch).batch
    dropped = collect(batch, condition_dropout=0.3).batch
    is_dropped = dropped.condition["label"].sum(1) == 0
    assert is_dropped.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(
        dropped.condition["label"][~is_dropped], batch.condition["label"][~is_dropped]
    )
    for name in ("t0", "sigma", "noise"):  # the option changes no other draw
        assert torch.equal(kept[name], dropped[name])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_takes_conditions_of_several_axes(dropout):
    batch = toy_batch(4)
    embeds = {"prompt_embeds": torch.ones(4, 5, 3), "pooled_prompt_embeds": torch.ones(4, 2)}
    zeros = {name: torch.zeros_like(value) for name, value in embeds.items()}
    batch = type(batch)(batch.tensors, embeds, zeros, batch.prompts)
    condition = collect(batch, condition_dropout=dropout).batch.condition
    kept = condition["pooled_prompt_embeds"][:, 0]
    assert torch.equal(condition["prompt_embeds"].mean((1, 2)), kept)
    assert (kept == 1).all() == (dropout == 0)


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    method, model = Sft(SftConfig(), schedule=StaticShift(3.0)), ConvModel()
    batch = collect(toy_batch(8, (4, 4, 4))).batch
    loss, metrics = backward(method, model, batch)
    assert metrics["train/main_loss"] == pytest.approx(loss)
    whole = gradients(model)
    model.zero_grad()
    for row in range(8):
        for term in method.losses(Policies(model), batch.select([row])):
            (term.loss_sum / method.weight(batch)).backward()
    torch.testing.assert_close(gradients(model), whole, rtol=1e-5, atol=1e-7)


def test_learns_points_by_their_labels():
    method = Sft(SftConfig(condition_dropout=0.1), schedule=StaticShift(1.0))
    before, after = distances_while_learning(method, rows=24)
    assert before > 1.2
    assert after < 0.6


def test_more_points_of_a_row_are_so_many_rows():
    config, model = SftConfig(num_points=3, condition_dropout=0.5), ConvModel()
    method = Sft(config, schedule=StaticShift(3.0))
    batch = method.collect(None, toy_batch(4, (4, 2, 2)), generators(4)).batch
    assert method.weight(batch) == 12
    assert method.forward_equivalents(batch) == 4 * 9
    loss, metrics = backward(method, model, batch)
    gradient = gradients(model)
    # Of each row the first point, then the second, then the third, as rows of their own.
    parts = [batch.with_tensors(sigma=batch["sigma"], noise=batch["noise"])]
    for index in (1, 2):
        drawn = {name: batch[f"{name}_{index}"] for name in ("sigma", "noise")}
        parts.append(batch.with_tensors(**drawn))
    single = Sft(SftConfig(), schedule=StaticShift(3.0))
    losses = [backward(single, model, part)[0] for part in parts]
    assert loss == pytest.approx(sum(losses) / 3)
    assert metrics["train/main_loss"] == pytest.approx(loss)
    gradient_sum = 0
    for part in parts:
        backward(single, model, part)
        gradient_sum = gradient_sum + gradients(model)
    torch.testing.assert_close(gradient, gradient_sum / 3, rtol=1e-4, atol=1e-6)


def test_the_first_point_is_that_of_one_point_and_the_others_are_their_own():
    one, three = collect(toy_batch(500)).batch, collect(toy_batch(500), num_points=3).batch
    assert all(torch.equal(value, three[name]) for name, value in one.tensors.items())
    sigmas = torch.stack([three["sigma"], three["sigma_1"], three["sigma_2"]])
    assert torch.corrcoef(sigmas).fill_diagonal_(0).abs().max() < 0.15
    assert sigmas.mean(1).std() < 0.03
    assert three["noise_1"].std().item() == pytest.approx(1, abs=0.07)
    assert not torch.isclose(three["noise_1"], three["noise_2"]).any()
