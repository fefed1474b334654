import itertools

import pytest
import torch

from baselines.base import Batch, Policies
from baselines.flow import add_noise, training_grid
from baselines.schedule import StaticShift
from baselines.sft import Sft
from baselines.sft_config import SftConfig
from baselines.soar import Soar, correction_velocity, renoise, sample_renoise_sigmas
from baselines.soar_config import SoarConfig
from soarbench.benchmarks.naive_soar import naive_soar_loss
from tests.baselines.method_toys import (
    ConvModel,
    PathModel,
    ToyModel,
    backward,
    distances_while_learning,
    generators,
    gradients,
    toy_batch,
)

SHIFT = 3.0


def soar(**config) -> Soar:
    return Soar(SoarConfig(**config), schedule=StaticShift(SHIFT))


def collected(method: Soar, batch: Batch, seed: int = 0) -> Batch:
    return method.collect(None, batch, generators(len(batch), seed)).batch


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 2, 2)])
def test_renoising_stays_on_the_path_and_ends_at_the_noise(shape):
    x0, noise = random(*shape), random(*shape, seed=1)
    low, high = torch.tensor([0.1, 0.3, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.9, 1.0])
    on_path = renoise(add_noise(x0, noise, low), noise, low, high)
    torch.testing.assert_close(on_path, add_noise(x0, noise, high))
    anywhere = renoise(x0 + 7, noise, low, torch.ones(4))
    torch.testing.assert_close(anywhere, noise)


def test_renoise_and_target_by_hand():
    # alpha = (0.6 - 0.2) / 0.8 = 0.5
    x_aux = renoise(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[3.0, 0.0]]),
        torch.tensor([0.2]),
        torch.tensor([0.6]),
    )
    torch.testing.assert_close(x_aux, torch.tensor([[2.0, 1.0]]))
    target = correction_velocity(x_aux, torch.tensor([[0.5, 1.0]]), torch.tensor([0.6]))
    torch.testing.assert_close(target, torch.tensor([[2.5, 0.0]]))


def test_correction_on_the_path_is_its_velocity_and_reaches_x0_from_anywhere():
    x0, noise, sigma = random(5, 3), random(5, 3, seed=1), torch.linspace(0.1, 1, 5)
    on_path = correction_velocity(add_noise(x0, noise, sigma), x0, sigma)
    torch.testing.assert_close(on_path, noise - x0, atol=1e-5, rtol=1e-5)
    x_aux = random(5, 3, seed=2)
    reached = x_aux - sigma[:, None] * correction_velocity(x_aux, x0, sigma)
    torch.testing.assert_close(reached, x0)


def test_renoise_sigmas_are_uniform_above_sigma_next():
    sigma_next = torch.tensor([0.2, 0.8])
    uniform = torch.tensor([0.0, 0.5, 1.0]).expand(2, 1, 3)
    sigmas = sample_renoise_sigmas(sigma_next, uniform)
    torch.testing.assert_close(sigmas[:, 0], torch.tensor([[0.2, 0.6, 1.0], [0.8, 0.9, 1.0]]))


# --- the method -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_weight_0_is_sft_bit_for_bit(dropout):
    batch = toy_batch(8, (4, 4, 4))
    method = soar(aux_weight=0.0, condition_dropout=dropout)
    sft = Sft(SftConfig(condition_dropout=dropout), schedule=StaticShift(SHIFT))
    ours = collected(method, batch)
    theirs = sft.collect(None, batch, generators(8)).batch
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs.tensors)
    assert method.weight(ours) == sft.weight(theirs)
    assert method.forward_equivalents(ours) == sft.forward_equivalents(theirs)
    model = ConvModel()
    results = []
    for tested, rows in ((method, ours), (sft, theirs)):
        results.append((backward(tested, model, rows), gradients(model)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_weight_0_evaluates_the_model_once():
    method, model = soar(aux_weight=0.0), ToyModel()
    list(method.losses(Policies(model), collected(method, toy_batch(4))))
    assert model.calls == [(4, True)]


def test_draws_of_the_main_term_are_those_of_sft():
    batch = toy_batch(8)
    ours = collected(soar(num_rollout_paths=3), batch)
    theirs = Sft(SftConfig(), schedule=StaticShift(SHIFT)).collect(None, batch, generators(8)).batch
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs.tensors)


@pytest.mark.parametrize("paths", [1, 2])
def test_a_perfect_model_stays_on_the_path_and_has_no_loss(paths):
    method = soar(guidance_scale=1.0, num_rollout_paths=paths, noise_scale=0.0)
    batch = collected(method, toy_batch(6))
    model = PathModel(batch["x0"], batch["noise"])
    x_off = method._rollout(model, model.velocity, batch)
    on_path = add_noise(batch["x0"], batch["noise"], batch["sigma_next"])
    for path in range(paths):
        torch.testing.assert_close(x_off[:, path], on_path, atol=1e-5, rtol=1e-5)
    total = sum(term.loss_sum.item() for term in method.losses(Policies(model), batch))
    assert total == pytest.approx(0, abs=1e-6)


CASES = [
    {},
    {"guidance_scale": 1.0},
    {"aux_weight": 0.3, "num_aux_points": 2, "condition_dropout": 0.4},
    {"num_rollout_paths": 3, "num_aux_points": 2, "step_kind": "flow_sde"},
    {"num_rollout_paths": 2, "num_aux_points": 2, "step_kind": "cps"},
    {"num_rollout_paths": 2, "num_aux_points": 1, "step_kind": "sde"},
    {"num_rollout_paths": 2, "num_aux_points": 3, "step_kind": "simple"},
    # 1 / K = 0.4: a third of the rows hit the clean boundary and lose their stochastic path
    {"num_rollout_paths": 3, "num_aux_points": 2, "num_inference_steps": 2},
    {"off_path": False, "num_aux_points": 2},
    {"shared_noise": False, "num_rollout_paths": 2, "num_aux_points": 2},
    {"renoise": False, "num_aux_points": 1, "aux_weight": 6.0, "num_inference_steps": 2},
    {"renoise": False, "num_aux_points": 1, "num_rollout_paths": 2, "num_inference_steps": 2},
]


@pytest.mark.parametrize("config", CASES, ids=str)
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_loss_and_gradient_are_those_of_the_naive_step(config, chunk):
    method, model = soar(aux_chunk=chunk, **config), ConvModel()
    batch = collected(method, toy_batch(12, (4, 4, 4)))
    sigma_max = training_grid(SHIFT)[1].item()
    expected = naive_soar_loss(model, batch, method.config, sigma_max)
    model.zero_grad()
    expected.backward()
    naive_gradient = gradients(model)
    loss, metrics = backward(method, model, batch)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    difference = (gradients(model) - naive_gradient).norm() / naive_gradient.norm()
    assert difference.item() < 1e-5
    num_aux = (method.weight(batch) - 12) / method.config.aux_weight
    parts = 12 * metrics["train/main_loss"]
    parts += method.config.aux_weight * num_aux * metrics["train/aux_loss"]
    assert parts / method.weight(batch) == pytest.approx(loss, rel=1e-5)


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    method = soar(num_rollout_paths=2, num_aux_points=3, num_inference_steps=2)
    model, batch = ConvModel(), collected(method, toy_batch(8, (4, 4, 4)))
    parts = [batch.select(rows) for rows in ([0], [1, 2], [3, 4, 5, 6, 7])]
    assert sum(map(method.weight, parts)) == pytest.approx(method.weight(batch))
    backward(method, model, batch)
    whole = gradients(model)
    model.zero_grad()
    for part in parts:
        for term in method.losses(Policies(model), part):
            (term.loss_sum / method.weight(batch)).backward()
    torch.testing.assert_close(gradients(model), whole, rtol=1e-5, atol=1e-7)


def test_stochastic_paths_skip_the_clean_boundary():
    method = soar(num_rollout_paths=3, num_inference_steps=2, num_aux_points=5, aux_weight=0.5)
    batch = collected(method, toy_batch(200))
    boundary = batch["t0"] <= 0.5
    assert 0 < boundary.sum() < 200
    assert batch["path_exists"][:, 0].all()
    assert torch.equal(batch["path_exists"][:, 1], ~boundary)
    assert torch.equal(batch["path_exists"][:, 2], ~boundary)
    num_aux = 5 * (200 + 2 * (~boundary).sum().item())
    assert method.weight(batch) == pytest.approx(200 + 0.5 * num_aux)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_rollout_has_no_graph_and_reuses_the_conditional_velocity(guidance_scale):
    method, model = soar(guidance_scale=guidance_scale, num_aux_points=3), ToyModel()
    batch = collected(method, toy_batch(4))
    backward(method, model, batch)
    rollout = [] if guidance_scale == 1 else [(4, False)]
    assert model.calls == [(4, True), *rollout, *[(4, True)] * 3]
    cost = sum(rows * (3 if graph else 1) for rows, graph in model.calls)
    assert method.forward_equivalents(batch) == cost


def test_terms_come_main_first_then_chunks():
    method, model = soar(num_rollout_paths=2, num_aux_points=3, aux_chunk=4), ToyModel()
    batch = collected(method, toy_batch(5))
    terms = list(method.losses(Policies(model), batch))
    assert [set(term.metrics) for term in terms] == [
        {"train/main_loss", "train/velocity_rms"},
        {"train/aux_loss"},
        {"train/aux_loss"},
    ]
    assert [rows for rows, graph in model.calls if graph] == [5, 20, 10]


def test_collection_is_the_same_in_any_batch():
    method, batch = soar(num_rollout_paths=3), toy_batch(6)
    whole = collected(method, batch)
    alone = [method.collect(None, batch.select([i]), [generators(6)[i]]).batch for i in range(6)]
    for name, value in whole.tensors.items():
        assert torch.equal(value, torch.cat([row[name] for row in alone]))


def test_learns_points_by_their_labels():
    config = SoarConfig(num_aux_points=2, guidance_scale=1.5, aux_chunk=2, condition_dropout=0.1)
    before, after = distances_while_learning(Soar(config, schedule=StaticShift(1.0)), rows=24)
    assert before > 1.2
    assert after < 0.6


def test_slots_cover_every_point_once():
    method, model = soar(num_rollout_paths=2, num_aux_points=4, aux_chunk=3), ToyModel()
    batch = collected(method, toy_batch(1))
    seen = []

    def recording(latents, sigma, condition):
        if torch.is_grad_enabled():
            seen.extend(sigma.tolist())
        return model(latents, sigma, condition)

    list(method.losses(Policies(recording), batch))
    points = itertools.product(range(2), range(4))
    assert seen[1:] == [batch["sigma_aux"][0, path, point].item() for path, point in points]


# --- the controls ---------------------------------------------------------------------------------


def evaluated(method: Soar, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Latents and levels of the auxiliary points, and their summed error for a velocity of 0."""
    seen = []

    def still(latents, sigma, _condition):
        if torch.is_grad_enabled():
            seen.append((latents, sigma))
        return torch.zeros_like(latents)

    _, *aux = method.losses(Policies(still), batch)
    latents, sigmas = (torch.cat(parts) for parts in zip(*seen[1:], strict=True))
    return latents, sigmas, sum(term.loss_sum.item() for term in aux)


def test_the_published_method_draws_the_same_beside_any_control():
    published = collected(soar(), toy_batch(6))
    assert "endpoint" not in published.tensors
    for control in ({"off_path": False}, {"shared_noise": False}):
        batch = collected(soar(**control), toy_batch(6))
        for name, value in published.tensors.items():
            assert torch.equal(batch[name], value)


def test_on_the_path_the_points_teach_the_path_at_the_same_levels():
    method = soar(off_path=False, num_aux_points=3)
    batch = collected(method, toy_batch(5))
    latents, sigmas, error = evaluated(method, batch)
    x0, noise = batch["x0"], batch["noise"]
    assert torch.equal(sigmas, batch["sigma_aux"][:, 0].T.flatten())
    on_path = add_noise(x0.repeat(3, 1), noise.repeat(3, 1), sigmas)
    torch.testing.assert_close(latents, on_path, atol=1e-5, rtol=1e-5)
    assert error == pytest.approx(3 * (noise - x0).square().mean(1).sum().item(), rel=1e-4)
    # It takes no step, whatever the guidance: a forward fewer, none without a gradient.
    model = ToyModel()
    backward(method, model, batch)
    assert model.calls == [(5, True)] * 4
    assert method.forward_equivalents(batch) == 5 * 3 * 4


def test_without_renoising_the_point_stays_where_the_step_ends():
    method = soar(renoise=False, num_aux_points=1, aux_weight=6.0, num_inference_steps=2)
    batch = collected(method, toy_batch(40))
    has_point = batch["t0"] > 0.5
    assert 0 < has_point.sum() < 40
    assert torch.equal(batch["path_exists"][:, 0], has_point)
    assert method.weight(batch) == 40 + 6 * has_point.sum().item()
    latents, sigmas, error = evaluated(method, batch)
    x0, noise, sigma = batch["x0"], batch["noise"], batch["sigma"]
    assert torch.equal(sigmas, batch["sigma_next"])
    # A velocity of 0 stays at (1 - sigma) x0 + sigma noise; from there (x - x0) / sigma_next.
    torch.testing.assert_close(latents, add_noise(x0, noise, sigma))
    stretch = (sigma / sigmas).square() * (noise - x0).square().mean(1)
    assert error == pytest.approx(6 * stretch[has_point].sum().item(), rel=1e-4)


def test_without_renoising_a_micro_batch_may_have_no_point():
    method, model = soar(renoise=False, num_aux_points=1, num_inference_steps=1), ToyModel()
    batch = collected(method, toy_batch(3))
    assert method.weight(batch) == 3
    loss, metrics = backward(method, model, batch)
    assert loss == pytest.approx(metrics["train/main_loss"])
    assert metrics["train/aux_loss"] == 0


def test_fresh_noise_is_another_endpoint_for_each_path():
    method = soar(shared_noise=False, num_rollout_paths=2, num_aux_points=1)
    batch = collected(method, toy_batch(4))
    batch = batch.with_tensors(sigma_aux=torch.ones_like(batch["sigma_aux"]))
    latents, _, error = evaluated(method, batch)
    endpoint = batch["endpoint"]
    torch.testing.assert_close(latents, torch.cat([endpoint[:, 0], endpoint[:, 1]]))
    assert not torch.isclose(endpoint, batch["noise"][:, None]).any()
    exists = batch["path_exists"]
    target = (endpoint - batch["x0"][:, None]).square().mean(2)
    assert error == pytest.approx((target * exists).sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"renoise": False}, "num_aux_points = 6 .* use 1"),
        ({"renoise": False, "num_aux_points": 1, "shared_noise": False}, "shared_noise = False"),
        ({"off_path": False, "num_rollout_paths": 2}, "num_rollout_paths = 2"),
    ],
)
def test_a_switch_without_effect_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        SoarConfig(**config)
