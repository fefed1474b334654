import pytest
import torch

from baselines import flow
from tests.baselines.method_toys import (
    ToyModel,
    generators,
    sd3_condition,
    sd3_velocity,
    tiny_sd3,
    toy_batch,
)

KINDS = ("flow_sde", "cps", "sde", "simple")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_training_grid_is_the_schedulers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    assert torch.equal(flow.training_grid(shift), scheduler.sigmas)


@pytest.mark.parametrize(("steps", "shift"), [(1, 3.0), (2, 1.0), (10, 3.0), (28, 3.0), (40, 1.5)])
def test_sampling_sigmas_are_the_schedulers(steps, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    assert torch.equal(flow.sampling_sigmas(steps, shift), scheduler.sigmas)


def test_training_sigmas_by_hand():
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.testing.assert_close(flow.training_sigmas(t, 1.0), torch.tensor([0.001, 0.25, 0.5, 1.0]))
    # shift 3: 3 s / (1 + 2 s) of s = 0.5 and of the lowest level, 0.001
    torch.testing.assert_close(
        flow.training_sigmas(t[[0, 2]], 3.0), torch.tensor([0.003 / 1.002, 0.75])
    )


@pytest.mark.parametrize("shape", [(5, 2), (5, 4, 3, 3)])
def test_path_has_its_ends_and_the_velocity_leads_along_it(shape):
    x0, noise = random(*shape), random(*shape, seed=1)
    assert torch.equal(flow.add_noise(x0, noise, torch.zeros(5)), x0)
    assert torch.equal(flow.add_noise(x0, noise, torch.ones(5)), noise)
    sigma, sigma_next = torch.rand(2, 5, generator=torch.Generator().manual_seed(2))
    moved = flow.euler_step(flow.add_noise(x0, noise, sigma), noise - x0, sigma, sigma_next)
    torch.testing.assert_close(moved, flow.add_noise(x0, noise, sigma_next))


def test_velocity_mse_is_one_value_a_row():
    error = flow.velocity_mse(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2))
    assert error.tolist() == [5.0, 0.0]


@pytest.mark.parametrize("kind", ["flow_sde", "cps", "simple"])
def test_noise_scale_0_is_the_euler_step(kind):
    x, v, noise = random(4, 3), random(4, 3, seed=1), random(4, 3, seed=2)
    sigma, sigma_next = torch.tensor([1.0, 0.9, 0.5, 0.2]), torch.tensor([0.9, 0.6, 0.4, 0.0])
    ours = flow.stochastic_step(x, v, sigma, sigma_next, kind, 0.0, 0.95, noise)
    torch.testing.assert_close(ours, flow.euler_step(x, v, sigma, sigma_next))


@pytest.mark.parametrize("kind", ["cps", "sde"])
def test_true_velocity_keeps_clean_part_and_noise_level(kind):
    x0, noise = random(4, 3), random(4, 3, seed=1)
    sigma, sigma_next = torch.full((4,), 0.8), torch.full((4,), 0.5)
    x = flow.add_noise(x0, noise, sigma)

    def step(fresh):
        return flow.stochastic_step(x, noise - x0, sigma, sigma_next, kind, 0.6, 0.95, fresh)

    kept = (step(torch.zeros(4, 3)) - 0.5 * x0) / noise  # coefficient of the old noise
    fresh = step(torch.ones(4, 3)) - step(torch.zeros(4, 3))  # coefficient of the new noise
    torch.testing.assert_close(kept**2 + fresh**2, torch.full((4, 3), 0.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_stochastic_steps_are_finite_at_both_ends(kind):
    sigma, sigma_next = torch.tensor([1.0, 0.003]), torch.tensor([0.99, 0.003])
    x, v, noise = (random(2, 3, seed=i) for i in range(3))
    step = flow.stochastic_step(x, v, sigma, sigma_next, kind, 1.0, 0.9997, noise)
    assert torch.isfinite(step).all()


def test_unknown_step_kind_is_refused():
    x, sigma = torch.zeros(1, 2), torch.ones(1)
    with pytest.raises(ValueError, match=r"'ddim'.*flow_sde, cps, sde or simple"):
        flow.stochastic_step(x, x, sigma, sigma, "ddim", 0.5, 0.9, x)


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_sde_keeps_the_marginals_of_gaussian_data(noise_level):
    """x0 ~ N(0, 1): the variance is (1 - s)^2 + s^2, and E[noise - x0 | x] linear in x."""
    sigmas = torch.linspace(0.9, 0.1, 4001)
    sigma, sigma_next = sigmas[:-1], sigmas[1:]
    slope = (2 * sigma - 1) / ((1 - sigma) ** 2 + sigma**2)
    mean, std = flow.sde_transition(
        torch.ones(4000, 1), slope[:, None], sigma, sigma_next, noise_level, 0.95
    )
    variance = 0.1**2 + 0.9**2
    for factor, spread in zip(mean.flatten().tolist(), std.tolist(), strict=True):
        variance = factor**2 * variance + spread**2
    assert variance == pytest.approx(0.9**2 + 0.1**2, rel=2e-3)


def test_sde_transition_takes_numbers_for_levels():
    x, v = random(3, 2), random(3, 2, seed=1)
    rows = flow.sde_transition(x, v, torch.full((3,), 0.6), torch.full((3,), 0.5), 0.7, 0.95)
    numbers = flow.sde_transition(x, v, 0.6, 0.5, 0.7, torch.tensor(0.95))
    for ours, theirs in zip(numbers, rows, strict=True):
        assert torch.equal(ours, theirs)


def test_guided_velocity_is_the_formula_in_one_batch():
    model, batch = ToyModel(), toy_batch(4)
    x, sigma = batch["x0"], torch.full((4,), 0.7)
    cond = model(x, sigma, batch.condition)
    uncond = model(x, sigma, batch.negative_condition)
    model.calls.clear()
    one_row = {"label": torch.zeros(1, 3)}
    for negative in (batch.negative_condition, one_row):
        guided = flow.guided_velocity(model, x, sigma, batch.condition, negative, 4.5)
        torch.testing.assert_close(guided, uncond + 4.5 * (cond - uncond))
    assert [rows for rows, _ in model.calls] == [8, 8]


def test_guidance_of_1_evaluates_the_prompt_alone():
    model, batch = ToyModel(), toy_batch(4)
    sigma = torch.full((4,), 0.7)
    plain = model(batch["x0"], sigma, batch.condition)
    model.calls.clear()
    guided = flow.guided_velocity(model, batch["x0"], sigma, batch.condition, {}, 1.0)
    assert torch.equal(guided, plain)
    assert [rows for rows, _ in model.calls] == [4]


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_euler_sample_has_the_bits_of_the_pipeline(guidance_scale, dtype):
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    transformer = tiny_sd3().to(dtype)
    pipeline = StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), *[None] * 7
    )
    pipeline.set_progress_bar_config(disable=True)
    prompt, negative = (
        {name: value.to(dtype) for name, value in sd3_condition(3, seed).items()} for seed in (1, 2)
    )
    noise = random(3, 4, 8, 8).to(dtype)
    expected = pipeline(
        **prompt,
        **{f"negative_{name}": value for name, value in negative.items()},
        latents=noise,
        height=64,
        width=64,
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).images

    sigmas = flow.sampling_sigmas(6, 3.0)
    ours = flow.euler_sample(
        sd3_velocity(transformer), noise, sigmas, prompt, negative, guidance_scale
    )
    assert ours.dtype == dtype
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("draw", [flow.draw_noise, flow.draw_uniform])
def test_draws_of_a_row_do_not_depend_on_the_batch(draw):
    together = draw((3, 2), generators(4), torch.device("cpu"))
    alone = [draw((3, 2), [rng], torch.device("cpu")) for rng in generators(4)]
    assert torch.equal(together, torch.cat(alone))
    assert together.shape == (4, 3, 2)
    assert len(set(together.flatten().tolist())) == 24


def still(latents, _sigma, _condition):
    return torch.zeros_like(latents)


def test_noise_in_the_states_adds_up_to_its_scale_and_none_comes_after_the_last_step():
    sigmas = flow.sampling_sigmas(20, 3.0)
    many = {"prompt": torch.zeros(64, 1)}

    def end(scale, rows=64):
        return flow.euler_sample(
            still, torch.zeros(rows, 4, 16, 16), sigmas, {"prompt": many["prompt"][:rows]}, {}, 1.0,
            state_noise=scale, generators=generators(rows),
        )  # fmt: skip

    # Var = a^2 (1 - sigma) over the steps down to the level before the last step.
    expected = 0.3 * (1 - sigmas[-2]).sqrt()
    torch.testing.assert_close(end(0.3).std(), expected, rtol=0.01, atol=0)
    assert torch.equal(end(None), torch.zeros(64, 4, 16, 16))
    # A row's noise is its own, whichever batch it is in.
    assert torch.equal(end(0.3)[:3], end(0.3, 3))


def test_noise_in_the_states_is_the_simple_step():
    sigmas, rng = torch.tensor([1.0, 0.6, 0.0]), generators(2)
    noise = random(2, 3, 4, 4)
    fresh = flow.draw_noise((3, 4, 4), generators(2), torch.device("cpu"))

    def model(latents, _sigma, _condition):
        return latents.tanh()

    state = noise - 0.4 * noise.tanh() + 0.5 * 0.4**0.5 * fresh
    expected = state - 0.6 * state.tanh()
    end = flow.euler_sample(model, noise, sigmas, {}, {}, 1.0, state_noise=0.5, generators=rng)
    torch.testing.assert_close(end, expected)
