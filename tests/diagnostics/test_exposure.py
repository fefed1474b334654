"""Measures of exposure bias, of fields whose answers are known by hand."""

import numpy as np
import pytest
import torch
from scipy import stats

from baselines.flow import add_noise, sampling_sigmas
from soarbench.diagnostics.exposure import (
    Sampler,
    contraction,
    energy_score,
    path_errors,
    rms,
    scaled,
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

    state = add_noise(x0, noise, sigma) + drift
    on, more = path_errors(model, x0, noise, state, sigma, NOTHING)
    torch.testing.assert_close(on, torch.full((3,), 0.09))
    # The constant 0.3 is on the path as well; what comes to it is the rest and their product.
    rest = (1 - share) * drift / level
    expected = (rest.square() - 0.6 * rest).flatten(1).mean(1)
    torch.testing.assert_close(more, expected, atol=1e-5, rtol=1e-4)


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
        errors = path_errors(model, x0[rows], noise[rows], state + drift[rows], sigma[rows], one)
        own = torch.stack([state, state + drift[rows]])
        return kicked, *errors, energy_score(own, own.flip(0) + 0.1)

    for together, alone in zip(measure(slice(None)), measure(slice(1, 2)), strict=True):
        torch.testing.assert_close(together[1:2], alone)


def test_the_score_is_twice_the_distance_to_data_minus_that_between_samples():
    own = torch.tensor([[[0.0], [2.0]], [[3.0], [2.0]], [[6.0], [5.0]]])
    data = torch.tensor([[[1.0], [2.0]], [[4.0], [2.0]]])
    # First row: 2 (1 + 4 + 2 + 1 + 5 + 2) / 6 - (3 + 6 + 3) / 3; second: 2 * 6 / 6 - 6 / 3.
    torch.testing.assert_close(energy_score(own, data), torch.tensor([1.0, 0.0]))
    # And in units of RMS: eight equal latents are as far apart as one.
    wide = energy_score(own.repeat(1, 1, 8), data.repeat(1, 1, 8))
    torch.testing.assert_close(wide, torch.tensor([1.0, 0.0]))


def test_differences_of_scores_are_differences_of_energy_distances():
    rng = np.random.default_rng(0)
    data = rng.gumbel(size=(60, 400))
    expected, scores = [], []
    for scale in (1.0, 2.0):
        own = scale * rng.gumbel(size=(60, 400))
        pair = (torch.from_numpy(part)[:, :, None] for part in (own, data))
        scores.append(energy_score(*pair).mean().item())
        expected.append(stats.energy_distance(own.ravel(), data.ravel()) ** 2)
    assert scores[1] - scores[0] == pytest.approx(expected[1] - expected[0], abs=0.01)
    assert expected[1] - expected[0] > 0.1


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_a_model_that_loses_diversity_does_not_come_nearer(bias):
    """Of every prompt, also of a model that is wrong about the mean."""
    generator = torch.Generator().manual_seed(2)
    prompt, truth, *within = torch.randn(4, 4096, 48, generator=generator)
    noise = torch.randn(4, 4096, 48, generator=generator)
    sigma = torch.full((4096,), 0.5)
    image = prompt + 0.7 * truth
    data = torch.stack([add_noise(image, one, sigma) for one in noise[:2]])
    scores, near = {}, {}
    for kept in (1.0, 0.6, 0.0):
        images = [prompt + bias + kept * 0.7 * own for own in within]
        states = [add_noise(*pair, sigma) for pair in zip(images, noise[2:], strict=True)]
        scores[kept] = energy_score(torch.stack(states), data)
        near[kept] = rms(images[0] - image).mean()
    # The distance of each image to the real one, as of an earlier figure, calls it a gain.
    assert near[0.0] < near[0.6] < near[1.0]
    for more, less in ((1.0, 0.6), (0.6, 0.0)):
        change = scores[less] - scores[more]
        assert change.mean() > 3 * change.std() / 4096**0.5


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
    errors = path_errors(model, x0, noise, x0, torch.full((3,), 0.5), NOTHING)
    assert not any(one.requires_grad for one in (ratios, *errors))
