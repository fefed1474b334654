import math

import pytest
import torch

from baselines.awm import matching_log_prob
from baselines.awm_config import AwmConfig
from baselines.base import Policies
from baselines.flow import add_noise
from tests.baselines.method_toys import ToyModel, backward, generators, gradients, toy_batch
from tests.baselines.toys import RIVALS, rival


@pytest.mark.parametrize(
    ("weighting", "value"),
    [
        ("uniform", -4.0),
        ("sigma", -2.0),
        ("sigma_squared", -1.0),
        ("huber", -(math.sqrt(4 + 1e-10) - 1e-5) / 2),
        ("ghuber", -((4 + 1e-10) ** 0.25 - 1e-10**0.25) * 0.5 / 0.25),
    ],
)
def test_a_matching_error_by_hand(weighting, value):
    velocity, target = torch.tensor([[2.0, -2.0]], requires_grad=True), torch.zeros(1, 2)
    log_prob = matching_log_prob(velocity, target, torch.tensor([0.5]), weighting, 0.25)
    assert log_prob.item() == pytest.approx(value, rel=1e-6)
    # A perfect match has the largest value, 0, and a gradient that is a number.
    at_best = matching_log_prob(
        velocity - velocity.detach(), target, torch.ones(1), weighting, 0.25
    )
    at_best.backward()
    assert at_best.item() == pytest.approx(0, abs=1e-7)
    assert torch.isfinite(velocity.grad).all()


def test_another_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting 'huge' is unknown: choose uniform"):
        matching_log_prob(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1), "huge", 0.25)
    with pytest.raises(ValueError, match=r"num_levels = 15 is not possible: use one in 1\.\.14"):
        AwmConfig(num_levels=15)


def test_before_an_update_ratios_are_1_and_the_gradient_is_the_policy_gradients():
    method, model = rival("awm"), ToyModel()
    method.config = AwmConfig(**{**vars(RIVALS["awm"]), "kl_coeff": 0.0})
    method.needs_reference = False
    policies = Policies(model, old=model)
    batch = method.collect(policies, toy_batch(8), generators(8)).batch
    _, metrics = backward(method, model, batch, old=model)
    assert metrics["train/ratio_deviation"] == 0
    assert metrics["train/ema_kl"] == 0
    ours, total = gradients(model), 0.0
    model.zero_grad()
    for level in range(2):
        sigma, noise = batch["sigmas"][:, level], batch["noise"][:, level]
        v = model(add_noise(batch["x0"], noise, sigma), sigma, batch.condition)
        log_prob = matching_log_prob(v, noise - batch["x0"], sigma, "sigma", 0.25)
        total = total - (batch["advantages"] * log_prob).sum() / 16
    total.backward()
    torch.testing.assert_close(ours, gradients(model), rtol=1e-4, atol=1e-7)
