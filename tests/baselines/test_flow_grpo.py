from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from baselines.base import Batch, Policies, World
from baselines.flow import euler_sample, guided_velocity, sampling_sigmas
from baselines.flow_grpo import (
    FlowGrpo,
    clipped_policy_loss,
    gaussian_kl_same_std,
    group_advantages,
    sde_transition,
    transition_log_prob,
)
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.groups import group_spread, prompt_ids
from baselines.rewards.base import RewardError
from baselines.schedule import StaticShift
from soarbench.planning.fake_transformer import LiveBytes
from tests.baselines.method_toys import (
    ConvModel,
    ToyModel,
    backward,
    generators,
    gradients,
    sd3_condition,
    sd3_velocity,
    tiny_sd3,
    toy_batch,
)

SHIFT = 3.0


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def first_element(_prompts, latents, _columns):
    return latents.flatten(1)[:, 0].tolist()


def flow_grpo(shape=(2,), reward=first_element, gather=lambda local: local, rank=0, **config):
    defaults = {
        "group_size": 2,
        "num_inference_steps": 4,
        "kl_coeff": 0.0,
        "updates_per_collection": 1,
    }
    world = World(
        schedule=StaticShift(SHIFT), latent_shape=shape, reward=reward, gather=gather, rank=rank
    )
    return FlowGrpo(FlowGrpoConfig(**(defaults | config)), world)


def collected(method: FlowGrpo, model, count: int, seed: int = 0, parts=()) -> Batch:
    batch = replace(toy_batch(count), parts=parts)
    return method.collect(Policies(model), batch, generators(count, seed)).batch


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 2), (5, 4, 3, 3)])
def test_log_prob_is_the_normal_density_a_mean_over_elements(shape):
    mean, x, std = random(*shape), random(*shape, seed=1), torch.linspace(0.01, 2, 5)
    column = std.reshape(-1, *[1] * (len(shape) - 1))
    expected = Normal(mean, column).log_prob(x).flatten(1).mean(1)
    torch.testing.assert_close(transition_log_prob(x, mean, std), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(transition_log_prob(x, mean, column), expected, rtol=1e-5, atol=1e-5)


def test_kl_is_that_of_two_normals_a_mean_over_elements():
    mean, other, std = random(4, 3, 2), random(4, 3, 2, seed=1), torch.linspace(0.1, 1, 4)
    column = std[:, None, None]
    joint = kl_divergence(
        Independent(Normal(mean, column), 2), Independent(Normal(other, column), 2)
    )
    torch.testing.assert_close(gaussian_kl_same_std(mean, other, std), joint / 6)


def test_clipped_loss_by_hand():
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.0])
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 3.0])
    loss = clipped_policy_loss(ratio, advantages, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-2.4, -1.0, 3.0, 1.6, -3.0]))


def test_clipped_loss_has_no_gradient_beyond_the_range():
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5], requires_grad=True)
    clipped_policy_loss(ratio, torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2).sum().backward()
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0]


def test_advantages_by_hand_with_groups_of_any_size():
    rewards, groups = [1.0, 3.0, 5.0, 2.0, 7.0], ["a", "b", "a", "b", "c"]
    # group means 3, 2.5, 7; population std 2, 0.5, 0
    ours = group_advantages(rewards, groups, False, eps=0.0)
    torch.testing.assert_close(ours[:4], torch.tensor([-1.0, 1.0, 1.0, -1.0]))
    ours = group_advantages(rewards, groups, False, eps=0.5)
    torch.testing.assert_close(ours, torch.tensor([-0.8, 0.5, 0.8, -0.5, 0.0]))
    spread = torch.tensor(rewards).std(correction=0)
    ours = group_advantages(torch.tensor(rewards), torch.tensor([0, 1, 0, 1, 2]), True, eps=0.0)
    torch.testing.assert_close(ours, torch.tensor([-2.0, 0.5, 2.0, -0.5, 0.0]) / spread)


@pytest.mark.parametrize("global_std", [True, False])
def test_equal_rewards_have_advantage_0(global_std):
    assert group_advantages([0.1] * 7, ["a"] * 7, global_std).abs().max() < 1e-6


def test_group_spread_is_exactly_0_for_equal_rewards():
    rewards = torch.tensor([0.1, 5.0, 0.1, -2.0, 0.1], dtype=torch.float64)
    spread, index = group_spread(rewards, ["a", "b", "a", "b", "a"])
    assert spread.tolist() == [0.0, 7.0]
    assert index.tolist() == [0, 1, 0, 1, 0]


def test_prompt_ids_depend_on_the_text_alone():
    ids = prompt_ids(["a cat", "a dog", "a cat"])
    assert ids[0] == ids[2] != ids[1]
    # The same in every process: a constant, not Python's salted hash.
    assert prompt_ids(["a cat"]).item() == ids[0].item() == 7491139519574695330


# --- rollout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize("window", [{}, {"sde_window_size": 2, "sde_window_range": (0, 4)}])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_first_ratios_are_exactly_1_in_the_training_forward(guidance_scale, window, size):
    """As the loop does it: the rollout in the chunks that are then trained."""
    method = flow_grpo((4, 4, 4), guidance_scale=guidance_scale, **window)
    model, count = ConvModel(), 12
    chunks = [range(first, min(first + size, count)) for first in range(0, count, size)]
    with torch.no_grad():
        batch = collected(method, model, count, parts=chunks)
    for chunk in chunks:
        part = batch.select(chunk)
        loss, metrics = backward(method, model, part)
        assert metrics["train/ratio_deviation"] == 0
        assert metrics["train/approx_kl"] == 0
        assert metrics["train/clip_fraction"] == 0
        assert loss == pytest.approx(-part["advantages"].mean().item(), abs=1e-6)


def test_first_ratios_are_exactly_1_through_attention():
    """Attention may choose another kernel where gradients are wanted."""
    transformer = tiny_sd3()
    batch = Batch({}, sd3_condition(6, seed=1), sd3_condition(6, seed=2), ["a cat"] * 6)
    method = flow_grpo((4, 8, 8), group_size=6)
    velocity = sd3_velocity(transformer)
    with torch.no_grad():
        chunks = [range(4), range(4, 6)]
        batch = method.collect(
            Policies(velocity), replace(batch, parts=chunks), generators(6)
        ).batch
    for chunk in chunks:
        for term in method.losses(Policies(velocity), batch.select(chunk)):
            assert term.metrics["train/ratio_deviation"] == 0
            term.loss_sum.backward()
    assert any(p.grad is not None and p.grad.any() for p in transformer.parameters())


def test_first_gradient_is_that_of_reinforce():
    method, model = flow_grpo(guidance_scale=2.0), ToyModel()
    batch = collected(method, model, 6)
    backward(method, model, batch)
    ours = gradients(model)
    model.zero_grad()
    sigmas, total = sampling_sigmas(4, SHIFT), 0.0
    for step in range(3):  # 99 % of 4 steps
        x, x_next = batch["trajectory"][:, step], batch["trajectory"][:, step + 1]
        sigma, sigma_next = sigmas[step].expand(6), sigmas[step + 1].expand(6)
        cond = model(x, sigma, batch.condition)
        uncond = model(x, sigma, batch.negative_condition)
        mean, std = sde_transition(
            x, uncond + 2 * (cond - uncond), sigma, sigma_next, 0.7, sigmas[1]
        )
        density = Normal(mean, std[:, None]).log_prob(x_next).mean(1)
        total = total - (batch["advantages"] * density).sum()
    (total / 18).backward()
    torch.testing.assert_close(ours, gradients(model), rtol=1e-4, atol=1e-6)


def test_rollout_is_the_same_in_any_batch_and_the_same_twice():
    method, model = flow_grpo(sde_window_size=1, sde_window_range=(0, 4)), ToyModel()
    whole, again = collected(method, model, 6), collected(method, model, 6)
    part = method.collect(
        Policies(model), toy_batch(6).select([4, 1]), [generators(6)[4], generators(6)[1]]
    ).batch
    for name in ("trajectory", "sigmas", "old_log_prob"):
        assert torch.equal(whole[name], again[name])
        torch.testing.assert_close(whole[name][[4, 1]], part[name])


def test_steps_outside_the_window_follow_the_ode():
    images = {}

    def keep(_prompts, latents, _columns):
        images["latents"] = latents
        return latents[:, 0].tolist()

    window = {"sde_window_size": 1, "sde_window_range": (1, 4)}
    method = flow_grpo(reward=keep, num_inference_steps=6, **window)
    model = ToyModel()
    batch = collected(method, model, 40)
    sigmas = sampling_sigmas(6, SHIFT)
    starts = [sigmas.tolist().index(sigma) for sigma in batch["sigmas"][:, 0].tolist()]
    assert set(starts) == {1, 2, 3}
    assert batch["trajectory"].shape == (40, 2, 2)
    assert batch["sigmas"].shape == (40, 2)
    for row, start in enumerate(starts):
        rows = batch.select([row])
        noise = torch.randn(1, 2, generator=generators(40)[row])

        def ode(x, levels, rows=rows):
            return euler_sample(model, x, levels, rows.condition, rows.negative_condition, 4.5)

        before, after = rows["trajectory"].unbind(1)
        torch.testing.assert_close(ode(noise, sigmas[: start + 1]), before, rtol=1e-4, atol=1e-4)
        end = ode(after, sigmas[start + 1 :])
        torch.testing.assert_close(end[0], images["latents"][row], rtol=1e-4, atol=1e-4)


def test_steps_are_drawn_from_the_transition():
    """Standardised steps are N(0, 1), and their log-probabilities those that are stored."""
    method, model = flow_grpo(num_inference_steps=5, train_timestep_fraction=1.0), ToyModel()
    batch = collected(method, model, 400)
    for step in range(5):
        x, sigma = batch["trajectory"][:, step], batch["sigmas"][:, step]
        with torch.no_grad():
            v = guided_velocity(model, x, sigma, batch.condition, batch.negative_condition, 4.5)
        sigma_next, sigma_max = batch["sigmas"][:, step + 1], method.sigmas[1]
        mean, std = sde_transition(x, v, sigma, sigma_next, 0.7, sigma_max)
        draws = (batch["trajectory"][:, step + 1] - mean) / std[:, None]
        assert draws.mean().item() == pytest.approx(0, abs=0.12)
        assert draws.std().item() == pytest.approx(1, abs=0.1)
        log_prob = Normal(mean, std[:, None]).log_prob(batch["trajectory"][:, step + 1]).mean(1)
        torch.testing.assert_close(batch["old_log_prob"][:, step], log_prob, rtol=1e-4, atol=1e-4)


def test_a_rollout_in_more_parts_takes_no_more_memory():
    """Held are the trained part of every path, latents for the reward, and one part's work."""
    shape, count = (4, 8, 8), 24
    method = flow_grpo(shape, num_inference_steps=10)
    peaks = []
    for size in (24, 6, 2, 1):
        parts = [range(first, first + size) for first in range(0, count, size)]
        with LiveBytes([]) as live:
            collected(method, lambda latents, *_: 0.5 * latents, count, parts=parts)
        peaks.append(live.peak / (4 * count * 4 * 8 * 8))
    assert sorted(peaks, reverse=True) == peaks
    ends = method.config.num_trained_steps + 1
    assert peaks[-1] < ends + 3.5
    assert peaks[0] < FlowGrpoConfig().latents_held


# --- groups and rewards ---------------------------------------------------------------------------


def by_row(rewards):
    return lambda _prompts, _latents, columns: [rewards[row] for row in columns["row"]]


def test_groups_without_spread_are_left_out_and_counted():
    rewards = [1.0, 0.3, 5.0, 2.0, 0.3, 5.0]  # labels 0 1 2 0 1 2: only group 0 differs
    method, model = flow_grpo(reward=by_row(rewards)), ToyModel()
    result = method.collect(Policies(model), toy_batch(6), generators(6))
    batch = result.batch
    assert batch["active"].tolist() == [True, False, False, True, False, False]
    assert method.weight(batch) == 2 * 3
    assert result.reward_calls == 6
    assert result.metrics["rollout/num_groups"] == 3
    assert result.metrics["rollout/num_zero_std_groups"] == 2
    assert result.metrics["rollout/frac_zero_std_groups"] == pytest.approx(2 / 3)
    assert result.metrics["rollout/reward_mean"] == pytest.approx(13.6 / 6)
    backward(method, model, batch)
    whole = gradients(model)
    backward(method, model, batch.select([0, 3]))
    torch.testing.assert_close(whole, gradients(model), rtol=1e-4, atol=1e-6)

    silent = batch.select([1, 2, 4])
    assert method.weight(silent) == 0
    assert [term.loss_sum.item() for term in method.losses(Policies(model), silent)] == [0, 0, 0]
    keeping = flow_grpo(reward=by_row(rewards), skip_zero_std_groups=False)
    assert keeping.weight(collected(keeping, model, 6)) == 6 * 3


def test_advantages_are_clipped():
    rewards = [0.0, 1e-4, 0.0, 100.0, 0.0, 0.0]  # labels 0 1 2 0 1 2
    method = flow_grpo(reward=by_row(rewards), advantage_clip=1.0)
    result = method.collect(Policies(ToyModel()), toy_batch(6), generators(6))
    assert result.batch["advantages"].abs().max() == 1.0
    assert result.metrics["rollout/frac_clipped_advantages"] == pytest.approx(2 / 6)


@pytest.mark.parametrize("global_std", [True, False])
def test_groups_may_be_spread_over_processes(global_std):
    rewards, model = [1.0, 0.3, 5.0, 2.0, 0.9, 5.5, 0.1, 0.3], ToyModel()
    whole = flow_grpo(reward=by_row(rewards), global_std=global_std).collect(
        Policies(model), toy_batch(8), generators(8)
    )
    ranks = [[0, 1, 2, 3], [4, 5, 6, 7]]
    sent = {0: [], 1: []}

    def collect(rank, gather):
        method = flow_grpo(reward=by_row(rewards), global_std=global_std, gather=gather, rank=rank)
        rows = ranks[rank]
        return method.collect(
            Policies(model), toy_batch(8).select(rows), [generators(8)[i] for i in rows]
        )

    for rank in (0, 1):
        collect(rank, lambda local, rank=rank: sent[rank].append(local) or local.repeat(2))
    for rank in (0, 1):
        received = iter(zip(sent[0], sent[1], strict=True))
        part = collect(rank, lambda _local, received=received: torch.cat(next(received)))
        assert torch.equal(part.batch["advantages"], whole.batch["advantages"][ranks[rank]])
        assert torch.equal(part.batch["active"], whole.batch["active"][ranks[rank]])
        assert part.metrics == whole.metrics


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")]])
def test_a_reward_that_fails_is_named(values):
    def broken(*_):
        return values

    with pytest.raises(RewardError, match="'broken'"):
        collected(flow_grpo(reward=broken), ToyModel(), 2)


@pytest.mark.parametrize("window", [{}, {"sde_window_size": 1, "sde_window_range": (0, 3)}])
def test_steps_that_keep_the_coefficients_begin_with_ratios_of_1(window):
    method, model = flow_grpo(step_kind="cps", **window), ToyModel()
    batch = collected(method, model, 6)
    _, metrics = backward(method, model, batch)
    assert metrics["train/ratio_deviation"] == 0
    # The step's Gaussian, by hand: noise of sin(a pi / 2) of the next level.
    latents, following = batch["trajectory"][:, 0], batch["trajectory"][:, 1]
    sigma, sigma_next = batch["sigmas"][:, :2].T[..., None]
    v = guided_velocity(
        model, latents, sigma[:, 0], batch.condition, batch.negative_condition, 4.5
    ).detach()
    std = sigma_next * np.sin(0.35 * np.pi)
    x0, noise = latents - sigma * v, latents + (1 - sigma) * v
    mean = (1 - sigma_next) * x0 + (sigma_next**2 - std**2).sqrt() * noise
    expected = Normal(mean, std.expand_as(mean)).log_prob(following).mean(1)
    torch.testing.assert_close(batch["old_log_prob"][:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [{"train_timestep_fraction": 1.0}, {"sde_window_size": 2, "sde_window_range": (0, 10)}],
)
def test_the_last_step_of_that_kind_has_no_density(config):
    with pytest.raises(ValueError, match="step_kind = 'cps' is not possible: leave the last step"):
        FlowGrpoConfig(step_kind="cps", **config)


# --- KL -------------------------------------------------------------------------------------------


def test_kl_needs_a_reference():
    method, model = flow_grpo(kl_coeff=0.04), ToyModel()
    assert method.needs_reference
    assert not flow_grpo().needs_reference
    with pytest.raises(ValueError, match="Flow-GRPO needs a reference model"):
        list(method.losses(Policies(model), collected(method, model, 4)))


@pytest.mark.parametrize("kl_form", ["published", "exact"])
def test_kl_to_itself_is_0_and_changes_no_gradient(kl_form):
    model = ToyModel()
    plain = flow_grpo()
    batch = collected(plain, model, 6)
    backward(plain, model, batch)
    without = gradients(model)
    method = flow_grpo(kl_coeff=0.5, kl_form=kl_form)
    _, metrics = backward(method, model, batch, reference=model)
    assert metrics["train/kl"] == 0
    assert torch.equal(gradients(model), without)


@pytest.mark.parametrize("kl_form", ["published", "exact"])
def test_kl_term_is_that_of_the_transitions(kl_form):
    method = flow_grpo(kl_coeff=0.5, kl_form=kl_form, guidance_scale=1.0)
    model, reference = ToyModel(seed=0), ToyModel(seed=1)
    batch = collected(method, model, 6)
    loss, metrics = backward(method, model, batch, reference=reference)
    expected = 0.0
    with torch.no_grad():
        for step in range(3):
            x = batch["trajectory"][:, step]
            sigma, sigma_next = batch["sigmas"][:, step], batch["sigmas"][:, step + 1]
            (mean, std), (other, _) = (
                sde_transition(
                    x, m(x, sigma, batch.condition), sigma, sigma_next, 0.7, method.sigmas[1]
                )
                for m in (model, reference)
            )
            kl = kl_divergence(Normal(mean, std[:, None]), Normal(other, std[:, None])).mean(1)
            if kl_form == "published":  # divides by g^2, which is std^2 / (-dt)
                kl = kl * (sigma - sigma_next)
            expected += kl.sum().item() / 18
    assert metrics["train/kl"] == pytest.approx(expected, rel=1e-4)
    assert loss == pytest.approx(metrics["train/policy_loss"] + 0.5 * expected, rel=1e-4)


# --- cost and learning ----------------------------------------------------------------------------


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize("kl_coeff", [0.0, 0.04])
def test_forward_equivalents_count_what_was_evaluated(guidance_scale, kl_coeff):
    method = flow_grpo(guidance_scale=guidance_scale, kl_coeff=kl_coeff)
    model, reference = ToyModel(), ToyModel()
    batch = collected(method, model, 6)
    backward(method, model, batch, reference)
    calls = model.calls + reference.calls
    assert method.forward_equivalents(batch) == sum(
        rows * (3 if graph else 1) for rows, graph in calls
    )


def test_learns_to_please_a_reward():
    goal = torch.tensor([1.5, -0.5])

    def nearness(_prompts, latents, _columns):
        return (-(latents - goal).square().sum(1)).tolist()

    method = flow_grpo(reward=nearness, clip_range=0.05, num_inference_steps=6, guidance_scale=1.0)
    model = ToyModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    rewards = []
    for step in range(60):
        result = method.collect(Policies(model), toy_batch(48), generators(48, seed=step))
        rewards.append(result.metrics["rollout/reward_mean"])
        backward(method, model, result.batch)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert last > 0.5 * first
