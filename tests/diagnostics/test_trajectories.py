"""Drift from the path: models whose trajectories are known by hand."""

import pytest
import torch

from baselines.flow import sampling_sigmas
from soarbench.diagnostics.trajectories import path_deviation, velocity_norm

NOTHING = {"prompt_embeds": torch.zeros(3, 1)}


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 4, 5, 5, generator=generator).unbind(0)


def perfect(x0, noise):
    """The velocity of the path itself, wherever the state is; guidance asks for it twice."""
    return lambda latents, _sigma, _condition: (noise - x0).repeat(len(latents) // 3, 1, 1, 1)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_perfect_model_stays_on_the_path(guidance_scale, shift):
    x0, noise = pair()
    found = path_deviation(
        perfect(x0, noise), x0, noise, sampling_sigmas(10, shift), NOTHING, NOTHING, guidance_scale
    )
    assert found.shape == (3, 11)
    assert found.max() < 1e-5


def test_a_model_that_knows_the_image_alone_returns_to_it():
    # Its velocity (latents - x0) / sigma is that of the path through the state, so that it never
    # leaves the path either; a model with another image leaves it by (1 - sigma) of the difference.
    x0, noise = pair()
    other = x0 + 2.0
    sigmas = sampling_sigmas(8, 1.0)

    def towards(latents, sigma, _condition):
        return (latents - other) / sigma[:, None, None, None]

    found = path_deviation(towards, x0, noise, sigmas, NOTHING, NOTHING, 1.0)
    torch.testing.assert_close(found, (2 * (1 - sigmas)).expand(3, -1), atol=1e-5, rtol=0)


def test_a_constant_error_adds_up_along_the_way():
    x0, noise = pair()
    error = torch.tensor([0.0, 0.5, -1.0]).view(3, 1, 1, 1)
    sigmas = torch.tensor([0.8, 0.5, 0.1, 0.0])
    found = path_deviation(
        lambda _latents, _sigma, _condition: noise - x0 + error,
        x0, noise, sigmas, NOTHING, NOTHING, 1.0,
    )  # fmt: skip
    expected = error.view(3, 1).abs() * (0.8 - sigmas)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert found[:, 0].tolist() == [0.0, 0.0, 0.0]


def test_guidance_extrapolates_the_two_conditions():
    x0, noise = pair()
    sigmas = torch.tensor([1.0, 0.0])

    def model(_latents, _sigma, condition):
        return (noise - x0).repeat(2, 1, 1, 1) + condition["prompt_embeds"].view(6, 1, 1, 1)

    with_prompt = {"prompt_embeds": torch.full((3, 1), 0.3)}
    # v_uncond + w (v_cond - v_uncond) is off by w * 0.3, and the step is 1 long.
    found = path_deviation(model, x0, noise, sigmas, with_prompt, NOTHING, 3.0)
    torch.testing.assert_close(found[:, 1], torch.full((3,), 0.9))


def test_images_do_not_touch_each_other():
    x0, noise = pair()
    sigmas = sampling_sigmas(5, 3.0)

    def model(latents, _sigma, _condition):
        return latents.tanh()

    together = path_deviation(model, x0, noise, sigmas, NOTHING, NOTHING, 1.0)
    alone = path_deviation(model, x0[1:2], noise[1:2], sigmas, NOTHING, NOTHING, 1.0)
    torch.testing.assert_close(together[1:2], alone)


def test_the_norm_is_the_rms_on_the_path_mean_over_levels():
    x0, noise = pair()
    seen = []

    def model(latents, sigma, _condition):
        seen.append(latents)
        return torch.full_like(latents, 3.0) * sigma.view(-1, 1, 1, 1)

    found = velocity_norm(model, x0, noise, (0.25, 0.75), NOTHING)
    torch.testing.assert_close(found, torch.full((3,), 1.5))
    torch.testing.assert_close(seen[0], 0.75 * x0 + 0.25 * noise)
    true = velocity_norm(perfect(x0, noise), x0, noise, (0.5,), NOTHING)
    torch.testing.assert_close(true, (noise - x0).square().mean((1, 2, 3)).sqrt())


def test_no_graph_is_kept():
    x0, noise = pair()
    weight = torch.ones(1, requires_grad=True)
    found = path_deviation(
        lambda latents, _sigma, _condition: weight * latents,
        x0, noise, torch.tensor([1.0, 0.0]), NOTHING, NOTHING, 1.0,
    )  # fmt: skip
    assert not found.requires_grad
