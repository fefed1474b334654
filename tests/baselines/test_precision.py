"""Low precision goes in, float32 comes out: the models speak bfloat16, the formulas must not."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines import flow, flow_grpo, flow_matching, groups, sft, soar
from baselines.base import Policies, World
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.schedule import StaticShift
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig
from tests.baselines.method_toys import ConvModel, generators, toy_batch

SHAPE = (4, 3, 16, 16)
SIGMA_MAX = 0.953125
NOISE_LEVEL = 0.7
CLIP_RANGE = 0.2


def rows(value, like):
    """One number a row, (B,), or a single one, against ``like``."""
    return value.reshape(-1, *(1,) * (like.ndim - 1))


def inputs():
    """Arguments by name, of values that bfloat16 holds exactly."""
    rng = torch.Generator().manual_seed(0)
    latents = ("x", "v", "w", "x0", "noise")
    tensors = {name: torch.randn(SHAPE, generator=rng).bfloat16().float() for name in latents}
    return {
        **tensors,
        "sigma": torch.tensor([1.0, 0.75, 0.5, 0.28125]),
        "lower": torch.tensor([0.875, 0.625, 0.28125, 0.125]),
        "sigma_max": torch.tensor(SIGMA_MAX),
        "std": torch.tensor([0.1015625, 0.25, 0.50390625, 1.0]),
        "uniform": torch.rand(4, 2, 3, generator=rng).bfloat16().float(),
    }


# --- the formulas once more, written for float64 --------------------------------------------------


def sde_moments(x, v, sigma, lower, sigma_max):
    s, dt = rows(sigma, x), rows(lower - sigma, x)
    g2 = NOISE_LEVEL**2 * s / (1 - torch.where(s == 1, sigma_max, s))
    mean = x + dt * (v + g2 / (2 * s) * (x + (1 - s) * v))
    return mean, (g2.flatten() * (sigma - lower)).sqrt()


def flow_sde(x, v, sigma, lower, sigma_max, noise):
    mean, std = sde_moments(x, v, sigma, lower, sigma_max)
    return mean + rows(std, x) * noise


def cps(x, v, sigma, lower, noise):
    s, s_next = rows(sigma, x), rows(lower, x)
    angle = NOISE_LEVEL * math.pi / 2
    old, fresh = s_next * math.cos(angle), s_next * math.sin(angle)
    return (1 - s_next) * (x - s * v) + old * (x + (1 - s) * v) + fresh * noise


def sde(x, v, sigma, lower, noise):
    return (1 - rows(lower, x)) * (x - rows(sigma, x) * v) + rows(lower, x) * noise


def simple(x, v, sigma, lower, noise):
    step = rows(sigma - lower, x)
    return x - step * v + NOISE_LEVEL * step.sqrt() * noise


def gaussian_log_prob(x, v, std):
    return torch.distributions.Normal(v, rows(std, v)).log_prob(x).flatten(1).mean(1)


def gaussian_kl(v, w, std):
    normal, other = (torch.distributions.Normal(mean, rows(std, mean)) for mean in (v, w))
    return torch.distributions.kl_divergence(normal, other).flatten(1).mean(1)


def stochastic(kind):
    def step(x, v, sigma, lower, noise, sigma_max=SIGMA_MAX):
        return flow.stochastic_step(x, v, sigma, lower, kind, NOISE_LEVEL, sigma_max, noise)

    return step


def transition(part):
    def moment(x, v, sigma, lower, sigma_max):
        return flow.sde_transition(x, v, sigma, lower, NOISE_LEVEL, sigma_max)[part]

    return moment


@dataclass(frozen=True)
class Formula:
    """A formula of ours, the same written out for float64, and the names of both's arguments."""

    ours: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    arguments: str

    def __call__(self, **values):
        return self.ours(*(values[name] for name in self.arguments.split()))


FORMULAS = {
    "add_noise": Formula(
        flow.add_noise,
        lambda x0, noise, sigma: x0 + rows(sigma, x0) * (noise - x0),
        "x0 noise sigma",
    ),
    "velocity_mse": Formula(
        flow.velocity_mse, lambda v, w: ((v - w) ** 2).flatten(1).sum(1) / v[0].numel(), "v w"
    ),
    "euler_step": Formula(
        flow.euler_step,
        lambda x, v, sigma, lower: x - rows(sigma - lower, x) * v,
        "x v sigma lower",
    ),
    "sde_mean": Formula(
        transition(0), lambda *a: sde_moments(*a)[0], "x v sigma lower sigma_max"
    ),
    "sde_std": Formula(transition(1), lambda *a: sde_moments(*a)[1], "x v sigma lower sigma_max"),
    "flow_sde": Formula(
        lambda x, v, sigma, lower, sigma_max, noise: stochastic("flow_sde")(
            x, v, sigma, lower, noise, sigma_max
        ),
        flow_sde,
        "x v sigma lower sigma_max noise",
    ),
    "cps": Formula(stochastic("cps"), cps, "x v sigma lower noise"),
    "sde": Formula(stochastic("sde"), sde, "x v sigma lower noise"),
    "simple": Formula(stochastic("simple"), simple, "x v sigma lower noise"),
    "velocity_rms": Formula(
        flow_matching.velocity_rms,
        lambda v: v.flatten(1).norm(dim=1) / math.sqrt(v[0].numel()),
        "v",
    ),
    "renoise": Formula(
        soar.renoise,
        lambda x, noise, lower, sigma: (
            x + rows((sigma - lower) / (1 - lower), x) * (noise - x)
        ),
        "x noise lower sigma",
    ),
    "correction_velocity": Formula(
        soar.correction_velocity, lambda x, x0, sigma: (x - x0) / rows(sigma, x), "x x0 sigma"
    ),
    "sample_renoise_sigmas": Formula(
        soar.sample_renoise_sigmas,
        lambda lower, uniform: 1 - (1 - uniform) * (1 - rows(lower, uniform)),
        "lower uniform",
    ),
    "transition_log_prob": Formula(
        flow_grpo.transition_log_prob, gaussian_log_prob, "x v std"
    ),
    "gaussian_kl_same_std": Formula(flow_grpo.gaussian_kl_same_std, gaussian_kl, "v w std"),
}  # fmt: skip
EACH_ARGUMENT = [
    (name, argument, dtype)
    for name, formula in FORMULAS.items()
    for argument in formula.arguments.split()
    # float64 shows a missing conversion that bfloat16 hides where another argument promotes it;
    # ``uniform`` is a draw of our own, which nobody makes wider than float32.
    for dtype in (torch.bfloat16, *([] if argument == "uniform" else [torch.float64]))
]


def same_bits(ours, expected):
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", FORMULAS)
def test_float32_is_the_formula_in_float64(name):
    wide = {key: value.double() for key, value in inputs().items()}
    formula = FORMULAS[name]
    expected = formula.reference(*(wide[key] for key in formula.arguments.split()))
    assert expected.dtype == torch.float64
    torch.testing.assert_close(formula(**inputs()).double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_bfloat16_inputs_lose_nothing(name):
    formula = FORMULAS[name]
    low = {key: value.bfloat16() for key, value in inputs().items()}
    same_bits(formula(**low), formula(**inputs()))


@pytest.mark.parametrize(("name", "argument", "dtype"), EACH_ARGUMENT)
def test_each_argument_is_taken_to_float32(name, argument, dtype):
    formula, values = FORMULAS[name], inputs()
    value = values[argument].to(dtype)
    same_bits(formula(**{**values, argument: value}), formula(**values))


def test_guidance_stays_in_the_models_precision():
    # The pipeline guides in the model's dtype, and images are to have its bits.
    values = inputs()
    uncond, cond = values["v"].bfloat16(), values["w"].bfloat16()
    guided = flow.classifier_free_guidance(uncond, cond, 4.5)
    assert guided.dtype == torch.bfloat16
    assert torch.equal(guided, uncond + 4.5 * (cond - uncond))
    wide = flow.classifier_free_guidance(values["v"], values["w"], 4.5)
    assert (guided.float() - wide).abs().max() > 1e-3


def test_policy_loss_is_in_float32_whatever_the_velocity_is():
    ratio, advantages = torch.tensor([0.5, 1.001, 1.5]), torch.tensor([1.0, -1.0, 2.0])
    loss = flow_grpo.clipped_policy_loss(ratio, advantages, CLIP_RANGE)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor([-0.5, 1.001, -2.4]), rtol=1e-7, atol=0)


# --- statistics of groups -------------------------------------------------------------------------


@pytest.mark.parametrize("global_std", [True, False])
def test_advantages_of_rewards_far_from_zero(global_std):
    # In float32 rewards around a million are 0.06 apart, which would be all of their spread.
    rewards = 1e6 + np.array([0.00, 0.01, 0.02, 0.05, 0.00, 0.03])
    members = [np.array([0, 1, 3]), np.array([2, 4, 5])]
    expected = np.empty(6)
    for rows_of in members:
        group = rewards[rows_of]
        spread = rewards.std() if global_std else group.std()
        expected[rows_of] = (group - group.mean()) / (spread + 1e-4)
    ours = groups.group_advantages(rewards.tolist(), ["a", "a", "b", "a", "b", "b"], global_std)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("global_std", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_advantages_do_not_depend_on_the_rewards_dtype(dtype, global_std):
    rewards = torch.tensor([0.5, 0.625, 0.75, 1.5, 2.0, 2.25])
    names = [0, 0, 1, 0, 1, 1]
    same_bits(
        groups.group_advantages(rewards.to(dtype), names, global_std),
        groups.group_advantages(rewards, names, global_std),
    )


# --- the methods ----------------------------------------------------------------------------------


class Rounding:
    """A model whose velocity has the precision of ``dtype``; in float32 again if ``back``."""

    def __init__(self, model, dtype, *, back):
        self.model, self.dtype, self.back = model, dtype, back
        self.latents = []

    def __call__(self, latents, sigma, condition):
        self.latents.append(latents)
        # A factor, so that a float64 velocity is no float32 number.
        wide = self.model(latents, sigma, condition).double() * (1 + 1e-9 * math.pi)
        rounded = wide.to(self.dtype)
        return rounded.float() if self.back else rounded


def nearby_reward(_prompts, latents, _columns):
    assert latents.dtype == torch.float32
    return (-latents.square().flatten(1).mean(1)).tolist()


def methods():
    yield sft.Sft(SftConfig(), schedule=StaticShift(3.0))
    # Two solver steps, so that a bit of the guided velocity is a bit of the rolled-out latents.
    two_steps = {"num_inference_steps": 2, "num_aux_points": 2, "num_rollout_paths": 2}
    yield soar.Soar(SoarConfig(**two_steps), schedule=StaticShift(3.0))
    # Guidance 1: with more, the model's dtype is that of the guided velocity (see above).
    for kl_form in ("exact", "published"):
        yield flow_grpo.FlowGrpo(
            FlowGrpoConfig(
                group_size=2,
                num_inference_steps=3,
                guidance_scale=1.0,
                kl_coeff=0.5,
                kl_form=kl_form,
            ),
            World(schedule=StaticShift(3.0), latent_shape=(4, 8, 8), reward=nearby_reward),
        )


METHODS = dict(zip(("sft", "soar", "flow_grpo", "flow_grpo_published"), methods(), strict=True))


def assert_same_terms(ours, expected):
    for our_term, term in zip(ours, expected, strict=True):
        same_bits(our_term.loss_sum, term.loss_sum)
        assert our_term.metrics.keys() == term.metrics.keys()
        for name, value in term.metrics.items():
            same_bits(our_term.metrics[name], value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_a_loss_rounds_the_velocity_before_it_computes(name, dtype):
    method, batch = METHODS[name], toy_batch(6, (4, 8, 8))
    policy, base = ConvModel(), ConvModel()
    with torch.no_grad():
        base.last.bias.add_(0.1)
    results = []
    for back in (False, True):
        model, reference = (Rounding(part, dtype, back=back) for part in (policy, base))
        collected = method.collect(Policies(model), batch, generators(len(batch))).batch
        terms = list(method.losses(Policies(model, reference=reference), collected))
        results.append((collected.tensors, terms, model.latents + reference.latents))
    (ours, our_terms, our_latents), (expected, terms, latents) = results
    assert ours.keys() == expected.keys()
    for name_of, value in expected.items():
        assert ours[name_of].dtype == value.dtype
        assert torch.equal(ours[name_of], value), name_of
    for our_points, points in zip(our_latents, latents, strict=True):
        same_bits(our_points, points)
    assert_same_terms(our_terms, terms)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("name", "changed"),
    list(itertools.product(("sft", "soar"), (("x0",), ("noise",), ("x0", "noise")))),
)
def test_latents_of_any_precision_train_in_float32(name, changed, dtype):
    method, model = METHODS[name], ConvModel()
    collected = method.collect(None, toy_batch(6, (4, 8, 8)), generators(6)).batch
    if dtype == torch.float64:
        low = {key: collected[key].double() * (1 + 1e-9 * math.pi) for key in changed}
    else:
        low = {key: collected[key].to(dtype) for key in changed}
    wide = {key: value.float() for key, value in low.items()}
    ours, expected = (
        list(method.losses(Policies(model), collected.with_tensors(**tensors)))
        for tensors in (low, wide)
    )
    assert_same_terms(ours, expected)


def test_rewards_are_compared_in_float64():
    # Half a unit in the last place of float32: the group has a spread, so its rows are trained on.
    def reward(_prompts, latents, _columns):
        return [1.0 + 2.0**-25 * (i >= 3) for i in range(len(latents))]

    method = METHODS["flow_grpo"]
    world = World(schedule=StaticShift(3.0), latent_shape=(4, 8, 8), reward=reward)
    ours = flow_grpo.FlowGrpo(method.config, world)
    collected = ours.collect(Policies(ConvModel()), toy_batch(6, (4, 8, 8)), generators(6))
    assert collected.metrics["rollout/num_zero_std_groups"] == 0
    assert collected.batch["active"].all()
    assert collected.metrics["rollout/reward_mean"] == 1.0 + 2.0**-26
