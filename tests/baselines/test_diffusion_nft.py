import pytest
import torch

from baselines.base import Policies
from baselines.diffusion_nft import endpoint_error, implicit_velocities, nft_loss, optimality
from baselines.diffusion_nft_config import DiffusionNftConfig
from tests.baselines.method_toys import ToyModel, backward, generators, gradients, toy_batch
from tests.baselines.toys import rival


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_implicit_policies_lie_around_the_old_one():
    v, old = random(5, 3), random(5, 3, seed=1)
    positive, negative = implicit_velocities(v, old, 0.3)
    torch.testing.assert_close((positive + negative) / 2, old)
    torch.testing.assert_close(positive - negative, 0.6 * (v - old))
    assert torch.equal(implicit_velocities(v, old, 1.0)[0], v)


def test_an_endpoints_error_by_hand():
    latents, sigma = torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([0.5, 1.0])
    # Endpoints (0, 2) and (1, 1), off by (1, 3) and by nothing.
    v = torch.tensor([[2.0, -2.0], [0.0, 0.0]], requires_grad=True)
    x0 = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    error = endpoint_error(latents, v, sigma, x0)
    assert error.tolist() == [5.0 / 2, 0.0]
    error.sum().backward()
    # Mean square by its divisor alone, 2: -2 sigma (1, 3) / 2 elements / 2.
    assert v.grad.tolist() == [[-0.25, -0.75], [0.0, 0.0]]


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_where_policies_are_equal_advantages_alone_say_where_to(beta):
    latents, old, x0 = random(3, 4), random(3, 4, seed=1), random(3, 4, seed=2)
    sigma, clip = torch.tensor([0.3, 0.6, 1.0]), 5.0

    def gradient(advantage):
        v = old.clone().requires_grad_()
        nft_loss(
            latents, v, old, sigma, x0, torch.full((3,), advantage), clip, beta
        ).sum().backward()
        return v.grad

    v = old.clone().requires_grad_()
    endpoint_error(latents, v, sigma, x0).sum().backward()
    for advantage in (-9.0, -5.0, 0.0, 2.5, 5.0):
        share = 2 * optimality(torch.tensor([advantage]), clip).item() - 1
        torch.testing.assert_close(gradient(advantage), clip * share * v.grad)
    torch.testing.assert_close(gradient(0.0), torch.zeros(3, 4), rtol=0, atol=1e-6)


def test_the_old_policy_rolls_out_and_the_trained_one_alone_has_gradients():
    method, trained, old, base = rival("diffusion_nft"), *(ToyModel(seed=s) for s in range(3))
    policies = Policies(trained, old, base)
    batch = method.collect(policies, toy_batch(8), generators(8)).batch
    assert trained.calls == base.calls == []
    assert [has_gradient for _, has_gradient in old.calls] == [False] * 4
    other = method.collect(Policies(ToyModel(seed=7), old, base), toy_batch(8), generators(8)).batch
    assert torch.equal(batch["x0"], other["x0"])
    backward(method, trained, batch, reference=base, old=old)
    assert gradients(trained).abs().sum() > 0
    assert all(p.grad is None for model in (old, base) for p in model.parameters())


def test_levels_are_those_of_the_sampler_and_no_row_has_one_twice():
    config = DiffusionNftConfig(group_size=2, num_inference_steps=10)
    method = config.build(rival("diffusion_nft").world)
    model = ToyModel()
    batch = method.collect(Policies(model, model, model), toy_batch(64), generators(64)).batch
    levels = [row.tolist() for row in batch["sigmas"]]
    schedule = method.sigmas[:-1].tolist()
    assert batch["sigmas"].shape == (64, 9)
    assert all(len(set(row)) == 9 and set(row) <= set(schedule) for row in levels)
    # In random order, each level as often as another.
    assert {row[0] for row in levels} == set(schedule)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("beta", 0.0, "beta = 0.0 is not possible"),
        ("old_hold", 1.0, "old_hold = 1.0 is not possible: use a share in"),
        ("train_timestep_fraction", 0.0, "train_timestep_fraction = 0.0"),
        ("kl_coeff", -1.0, "kl_coeff = -1.0"),
        ("group_size", 1, "group_size = 1 is not possible: a group needs 2 or more"),
    ],
)
def test_values_that_cannot_work_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        DiffusionNftConfig(**{field: value})
