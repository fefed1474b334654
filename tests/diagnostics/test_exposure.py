"""Measures of exposure bias, of fields whose answers are known by hand."""

import numpy as np
import pytest
import torch
from scipy import stats

from baselines.flow import add_noise, sampling_sigmas
from soarbench.diagnostics.exposure import (
    Sampler,
    contraction,
    rms,
    scaled,
    steering_error,
    two_sample_distance,
    velocity_norm,
)

NOTHING = {"prompt_embeds": torch.zeros(3, 1)}


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 4, 5, 5, generator=generator).unbind(0)


def sampler(velocity, guidance_scale=1.0, condition=NOTHING):
    return Sampler(
        velocity=velocity, condition=condition, negative_condition=NOTHING,
        guidance_scale=guidance_scale,
    )  # fmt: skip


def test_sampling_follows_the_velocity_with_guidance():
    x0, noise = pair()
    sigmas = torch.tensor([1.0, 0.7, 0.0])

    def model(_latents, _sigma, condition):
        return (noise - x0).repeat(2, 1, 1, 1) + condition["prompt_embeds"].view(6, 1, 1, 1)

    prompt = {"prompt_embeds": torch.full((3, 1), 0.3)}
    # v_uncond + w (v_cond - v_uncond) is off by w * 0.3, over a way of length 1.
    end = sampler(model, 3.0, prompt).follow(noise, sigmas)
    torch.testing.assert_close(end, x0 - 0.9)


def test_a_linear_field_shrinks_a_kick_by_the_product_of_its_steps():
    sigmas = torch.tensor([0.5, 0.3, 0.2, 0.0])
    state, other = pair()
    kicks = (scaled(other, 0.1), scaled(state, 2.0))
    ratios = contraction(sampler(lambda x, _s, _c: 2.5 * x), state, kicks, sigmas)
    expected = (1 - 2.5 * 0.2) * (1 - 2.5 * 0.1) * (1 - 2.5 * 0.2)
    torch.testing.assert_close(ratios, torch.full((2, 3), expected))
    # A velocity that does not depend on the state carries the kick to the end as it is.
    ratios = contraction(sampler(lambda x, _s, _c: torch.ones_like(x)), state, kicks, sigmas)
    torch.testing.assert_close(ratios, torch.ones(2, 3))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_model_that_steers_back_a_share_errs_by_the_square_of_the_rest(share):
    x0, noise = pair()
    drift = scaled(pair(1)[0], 0.2)
    sigma = torch.tensor([0.5, 0.8, 1.0])
    level = sigma.view(3, 1, 1, 1)

    def model(latents, sigmas, _condition):
        path = add_noise(x0, noise, sigmas)
        return noise - x0 + share * (latents - path) / sigmas.view(3, 1, 1, 1) + 0.3

    error = steering_error(model, x0, noise, add_noise(x0, noise, sigma) + drift, sigma, NOTHING)
    # The constant 0.3 is on the path as well; what stays is the drift's share and their product.
    rest = (1 - share) * drift / level
    expected = (rest.square() - 0.6 * rest).flatten(1).mean(1)
    torch.testing.assert_close(error, expected, atol=1e-5, rtol=1e-4)


def test_images_do_not_touch_each_other():
    x0, noise = pair()
    drift = scaled(pair(1)[0], 0.2)
    sigma = torch.tensor([0.5, 0.6, 0.7])

    def model(latents, _sigma, _condition):
        return latents.tanh()

    def measure(rows):
        one = {"prompt_embeds": torch.zeros(len(x0[rows]), 1)}
        state = add_noise(x0[rows], noise[rows], sigma[rows])
        sigmas = sampling_sigmas(5, 3.0)[2:]
        kicked = contraction(sampler(model, condition=one), state, (drift[rows],), sigmas)[0]
        error = steering_error(model, x0[rows], noise[rows], state + drift[rows], sigma[rows], one)
        return kicked, error

    for together, alone in zip(measure(slice(None)), measure(slice(1, 2)), strict=True):
        torch.testing.assert_close(together[1:2], alone)


def test_the_distance_is_the_energy_distance_of_other_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)) + 0.5
    terms = [
        np.linalg.norm(x[i] - y[j]) + np.linalg.norm(x[j] - y[i])
        - np.linalg.norm(x[i] - x[j]) - np.linalg.norm(y[i] - y[j])
        for i in range(5) for j in range(5) if i != j
    ]  # fmt: skip
    shares = two_sample_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert shares.mean().item() == pytest.approx(np.mean(terms) / 3**0.5)
    x, y = rng.normal(size=2000), rng.gumbel(size=2000)
    shares = two_sample_distance(*(torch.from_numpy(part)[:, None] for part in (x, y)))
    assert shares.mean().item() == pytest.approx(stats.energy_distance(x, y) ** 2, abs=5e-3)


def test_the_estimate_is_unbiased_and_its_shares_show_its_spread():
    generator = torch.Generator().manual_seed(1)

    def replicates(shift):
        for _ in range(300):
            x, y = torch.randn(2, 24, 16, generator=generator)
            yield two_sample_distance(x + shift, y)

    same = torch.stack([shares.mean() for shares in replicates(0.0)])
    assert abs(same.mean()) < 3 * same.std() / 300**0.5
    other = torch.stack(list(replicates(0.7)))
    spread = other.mean(1).std().item()
    assert (other.var(1).mean() / 24).sqrt().item() == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_a_model_that_loses_diversity_does_not_come_nearer(bias):
    generator = torch.Generator().manual_seed(2)
    prompt, within, truth = torch.randn(3, 256, 48, generator=generator)
    noise = torch.randn(2, 256, 48, generator=generator)
    sigma = torch.full((256,), 0.5)
    data = add_noise(prompt + 0.7 * truth, noise[0], sigma)
    shares, near = {}, {}
    for kept in (1.0, 0.6, 0.0):
        images = prompt + bias + kept * 0.7 * within
        state = add_noise(images, noise[1], sigma)
        shares[kept] = two_sample_distance(state, data)
        near[kept] = rms(images - (prompt + 0.7 * truth)).mean()
    # The distance of each image to the real one, as of an earlier figure, calls it a gain.
    assert near[0.0] < near[0.6] < near[1.0]
    for more, less in ((1.0, 0.6), (0.6, 0.0)):
        change = shares[less] - shares[more]
        assert change.mean() > 3 * change.std() / 256**0.5


def test_the_norm_is_the_rms_on_the_path_mean_over_levels():
    x0, noise = pair()
    seen = []

    def model(latents, sigma, _condition):
        seen.append(latents)
        return torch.full_like(latents, 3.0) * sigma.view(-1, 1, 1, 1)

    norm = velocity_norm(model, x0, noise, (0.25, 0.75), NOTHING)
    torch.testing.assert_close(norm, torch.full((3,), 1.5))
    torch.testing.assert_close(seen[0], 0.75 * x0 + 0.25 * noise)
    true = velocity_norm(lambda *_: noise - x0, x0, noise, (0.5,), NOTHING)
    torch.testing.assert_close(true, (noise - x0).square().mean((1, 2, 3)).sqrt())


def test_no_graph_is_kept():
    x0, noise = pair()
    weight = torch.ones(1, requires_grad=True)

    def model(latents, _sigma, _condition):
        return weight * latents

    ratios = contraction(sampler(model), x0, (noise,), torch.tensor([0.5, 0.0]))
    error = steering_error(model, x0, noise, x0, torch.full((3,), 0.5), NOTHING)
    assert not ratios.requires_grad
    assert not error.requires_grad
