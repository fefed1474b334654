"""Whole probings of models whose data are Gaussian, where the right velocity is known."""

import numpy as np
import pytest
import torch
from torch import nn

from baselines.flow import per_row, sampling_sigmas
from baselines.schedule import StaticShift
from soarbench.diagnostics.probes import Probing, make_probes
from soarbench.diagnostics.settings import DRIFT_STEPS, KICK, LEVELS, NUM_PROBES
from soarbench.models.base import ImageModel
from soarbench.report.numbers.exposure import MEASURES

SHAPE, SPREAD = (2, 4, 4), 0.8


def gaussian_velocity(x, sigma, mean, spread):
    """E[noise - x0 | x] of images N(mean, spread^2)."""
    level = per_row(sigma, x)
    variance = (1 - level) ** 2 * spread**2 + level**2
    centred = (x - (1 - level) * mean) / variance
    return level * centred - mean - (1 - level) * spread**2 * centred


class Gaussian(ImageModel):
    """Knows the mean of each prompt's images; ``spread`` of them, and how far it is ``off``."""

    latent_shape, schedule, scheduler_name = SHAPE, StaticShift(3.0), "none"

    def __init__(self, spread=SPREAD, off=0.0):
        self.transformer = nn.Linear(1, 1)
        self.spread, self.off = spread, off

    def velocity(self, transformer=None):  # noqa: ARG002
        def velocity(x, sigma, condition):
            mean = condition["mean"].view(-1, *SHAPE)
            return gaussian_velocity(x, sigma, mean, self.spread) + self.off

        return velocity

    def encode_prompts(self, prompts):
        return {"mean": torch.zeros(len(prompts), *SHAPE)}

    def encode_images(self, images):
        raise NotImplementedError

    def decode(self, latents):
        raise NotImplementedError


def rows(count=60):
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(count, 2, *SHAPE, generator=generator)
    return [
        {"x0": mean + SPREAD * own, "condition": {"mean": mean}, "prompt": f"{index}"}
        for index, (mean, own) in enumerate(drawn)
    ]


def probing(model, batch_size=64, steps=20, data=None):
    return Probing(
        model=model, rows=make_probes(data or rows(), model), batch_size=batch_size,
        num_inference_steps=steps, guidance_scale=1.0,
    )  # fmt: skip


STATES = probing(Gaussian()).drifted()


def exposure(model, **options):
    values = {}
    for row in probing(model, **options).exposure(STATES):
        values.setdefault((row["measure"], row["level"]), []).append(row["value"])
    return {key: np.array(own) for key, own in values.items()}


def test_every_measure_has_a_value_an_image_at_every_level():
    values = exposure(Gaussian())
    kicked = {("contraction_random", 0.75), ("contraction_drift", 0.75)}
    assert set(values) == {(name, level) for name in MEASURES for level in LEVELS} - kicked
    assert all(one.shape == (NUM_PROBES,) for one in values.values())
    assert all(np.isfinite(one).all() for one in values.values())
    levels = {(row["level"], row["sigma"]) for row in probing(Gaussian()).exposure(STATES)}
    grid = sampling_sigmas(20, 3.0)
    assert levels == {(at, float(grid[(grid - at).abs().argmin()])) for at in LEVELS}


def test_the_same_model_twice_is_bit_equal_and_batches_change_nothing():
    one, again = exposure(Gaussian()), exposure(Gaussian())
    parts = exposure(Gaussian(), batch_size=7)
    for key, values in one.items():
        assert np.array_equal(values, again[key])
        np.testing.assert_allclose(values, parts[key], rtol=1e-4, atol=1e-5)
    for level, state in probing(Gaussian(), batch_size=7).drifted().items():
        np.testing.assert_allclose(state, STATES[level], rtol=1e-5, atol=1e-6)


def test_states_are_the_samplers_own_some_steps_from_the_path():
    probes, grid = make_probes(rows(), Gaussian()), sampling_sigmas(20, 3.0)
    place = int((grid - 0.5).abs().argmin())
    x, mean = probes["x0"], probes.condition["mean"].view(-1, *SHAPE)
    state = (1 - grid[place - DRIFT_STEPS]) * x + grid[place - DRIFT_STEPS] * probes["noise"]
    for i in range(place - DRIFT_STEPS, place):
        v = gaussian_velocity(state, grid[i].expand(len(x)), mean, SPREAD)
        state = state + (grid[i + 1] - grid[i]) * v
    np.testing.assert_allclose(STATES[0.5], state.numpy(), atol=1e-5)
    kick = probes["kick"].square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(kick, torch.full((NUM_PROBES,), KICK))


class Steering(Gaussian):
    """Answers off the path as if it knew half of the way back; on it as its base does."""

    def velocity(self, transformer=None):  # noqa: ARG002
        base, probes = super().velocity(), make_probes(rows(), Gaussian())

        def velocity(x, sigma, condition):
            v = base(x, sigma, condition)
            if len(x) != NUM_PROBES:
                return v
            level = per_row(sigma, x)
            path = (1 - level) * probes["x0"] + level * probes["noise"]
            # Asked off the path, it adds half of what its base lacks there.
            off = ((x - path).abs().amax((1, 2, 3), keepdim=True) > 1e-4).float()
            return v + off * 0.5 * ((x - probes["x0"]) / level - v)

        return velocity


def test_a_planted_model_that_steers_back_wins():
    base, steering = exposure(Gaussian()), exposure(Steering())
    for level in LEVELS:
        change = steering["off_path", level] - base["off_path", level]
        assert change.mean() < -5 * change.std() / NUM_PROBES**0.5
        assert (change < 0).mean() > 0.9
        assert np.array_equal(steering["on_path", level], base["on_path", level])


def test_a_model_that_looks_away_is_not_taken_for_one_that_steers():
    """It is fooled less off the path, and pays for that on the path."""
    base, blind = exposure(Gaussian()), exposure(Gaussian(spread=0.2))
    for level in LEVELS:
        assert blind["off_path", level].mean() < base["off_path", level].mean()
        change = blind["on_path", level] - base["on_path", level]
        assert change.mean() > 2.5 * change.std() / NUM_PROBES**0.5


def test_contraction_of_gaussian_data_is_the_one_of_its_own_ode():
    """The field is linear in the state: a kick shrinks alike in every image and direction."""
    grid = sampling_sigmas(20, 3.0)
    values = exposure(Gaussian())
    place = int((grid - 0.5).abs().argmin())
    expected = 1.0
    for sigma, sigma_next in zip(grid[place:-1], grid[place + 1 :], strict=True):
        variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
        slope = (sigma - (1 - sigma) * SPREAD**2) / variance
        expected *= float(1 + (sigma_next - sigma) * slope)
    for kind in ("random", "drift"):
        np.testing.assert_allclose(values[f"contraction_{kind}", 0.5], expected, rtol=2e-3)


@pytest.mark.parametrize("off", [0.0, 0.2])
def test_states_of_a_collapsed_model_have_a_worse_score(off):
    """With the right mean and with a wrong one."""
    right, collapsed = exposure(Gaussian(off=off)), exposure(Gaussian(spread=0.2, off=off))
    change = collapsed["own_states", 0.5] - right["own_states", 0.5]
    assert change.mean() > 3 * change.std() / NUM_PROBES**0.5
    # Nearer to noise less of it shows, and not as a gain.
    change = collapsed["own_states", 0.75] - right["own_states", 0.75]
    assert change.mean() > 0


@pytest.mark.parametrize(("steps", "levels"), [(1, set()), (2, {0.75}), (4, {0.75, 0.5})])
def test_samplers_of_few_steps_have_the_levels_that_they_visit(steps, levels):
    model = probing(Gaussian(), steps=steps)
    states = model.drifted()
    assert set(states) == levels
    assert {row["level"] for row in model.exposure(states)} == levels
