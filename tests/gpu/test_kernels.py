"""All methods on real kernels; the same bodies run on the CPU, so that they cannot rot."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image

from soarbench.benchmarks.full_size import random_transformer, take_updates
from soarbench.benchmarks.gpu.inference import random_model
from soarbench.benchmarks.gpu.judges import JUDGES
from soarbench.benchmarks.gpu.training import Clock, Enough, measure_resume, measure_updates
from soarbench.planning.demand import PlanOptions, read_request
from soarbench.planning.memory_and_time import Demand

ADAPTERS = {"full": "lora=null", "lora": "lora={rank:4,alpha:8}"}
_PAIRS = [
    *("method.num_inference_steps=2", "method.group_size=2"),
    "method.updates_per_collection=1",
]
METHODS = {
    "sft": [],
    "soar": ["method.num_aux_points=2"],
    "flow_grpo": [*_PAIRS, "method.sde_window_size=0"],
    "diffusion_nft": _PAIRS,
    "awm": [*_PAIRS, "method.num_levels=2"],
    "best_of_group": _PAIRS,
    "online_dpo": _PAIRS,
}
MEDIUM = ["model=sd35_medium", "model.resolution=256"]
needs_gpu = pytest.mark.gpu


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def demand_of(method: str, adapter: str, *words: str) -> Demand:
    rows = ["training.batch_size=2", "training.micro_batch_size=2"]
    asked = [f"method={method}", ADAPTERS[adapter], *METHODS[method], *rows, *words]
    (demand,) = read_request(PlanOptions(), asked).demands.values()
    return demand


def losses(
    demand: Demand, device: torch.device, count: int = 2, layers: tuple[int, int] | None = None
) -> list[float]:
    """And gradient norms of some updates, from the same weights, which the CPU draws."""
    points = updates(demand, device, count, layers)
    return [point[name] for point in points for name in ("train/loss", "train/grad_norm")]


def updates(
    demand: Demand, device: torch.device, count: int, layers: tuple[int, int] | None = None
) -> list[dict[str, float]]:
    """What some updates log."""
    architecture = demand.model.architecture()
    if layers is not None:
        architecture = architecture.with_layers(layers)
    transformer = random_transformer(architecture, getattr(torch, demand.model.dtype)).to(device)
    training = replace(
        demand.training, steps=count + 1, save_steps=count + 1, num_snapshots=0, logging_steps=1
    )
    seen: list[dict[str, float]] = []

    def on_log(step: int, values: dict[str, float]) -> None:
        seen.append(values)
        if step == count:
            raise Enough

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        take_updates(replace(demand, training=training), transformer, on_log, Path(folder))
    return seen


LAB = ("model=lab", "model.resolution=64", "training.mixed_precision=no")
CASES = list(product(METHODS, ADAPTERS, ("true", "false")))
ON_CPU = [pytest.param(method, "lora", "true", "cpu") for method in METHODS]
ON_GPU = [pytest.param(*case, "cuda", marks=needs_gpu) for case in CASES]


@pytest.mark.parametrize(("method", "adapter", "checkpointing", "device"), [*ON_CPU, *ON_GPU])
def test_updates_are_those_of_the_cpu(
    method: str, adapter: str, checkpointing: str, device: str
) -> None:
    words = (*LAB, f"training.gradient_checkpointing={checkpointing}")
    demand = demand_of(method, adapter, *words)
    # A ratio starts at 1, and with it Flow-GRPO's loss near 0, whatever the weights.
    expected = losses(demand, torch.device("cpu"))
    assert losses(demand, torch.device(device)) == pytest.approx(expected, rel=2e-2, abs=2e-3)
    assert all(norm > 0 for norm in expected[1::2])


@needs_gpu
@pytest.mark.parametrize(("method", "adapter", "checkpointing"), CASES)
def test_wide_layers_train_in_bf16(method: str, adapter: str, checkpointing: str) -> None:
    words = (*MEDIUM, f"training.gradient_checkpointing={checkpointing}")
    demand = demand_of(method, adapter, *words)
    half = losses(demand, torch.device("cuda"), layers=(2, 1))
    exact = replace(
        demand,
        model=replace(demand.model, dtype="float32"),
        training=replace(demand.training, mixed_precision="no"),
    )
    whole = losses(exact, torch.device("cuda"), layers=(2, 1))
    # Weights are drawn in their type, so that those of bf16 are others of the same spread.
    assert half[0] == pytest.approx(whole[0], rel=0.1, abs=2e-2)


RATIOS = list(product(("flow_grpo", "awm"), ADAPTERS))


@pytest.mark.parametrize(
    ("method", "adapter", "device"),
    [
        *(pytest.param(*case, "cpu") for case in RATIOS),
        *(pytest.param(*case, "cuda", marks=needs_gpu) for case in RATIOS),
    ],
)
def test_before_the_first_update_every_ratio_is_one(method: str, adapter: str, device: str) -> None:
    # Of a rollout, which has no gradients, and an update, which has: other kernels may be chosen.
    words, layers = (LAB, None) if device == "cpu" else (MEDIUM, (2, 1))
    demand = demand_of(method, adapter, *words, "training.gradient_checkpointing=false")
    (first,) = updates(demand, torch.device(device), 1, layers)
    # A tenth of Flow-GRPO's clip range; on a CPU the bits are equal.
    assert first["train/ratio_deviation"] <= (0 if device == "cpu" else 1e-5)
    assert first["train/clip_fraction"] == 0


@needs_gpu
def test_a_clock_times_updates() -> None:
    device = torch.device("cuda")
    reports: list[dict[str, object]] = []
    demand = demand_of("sft", "lora", *LAB)
    measure_updates(demand, device, None, lambda values: reports.append(dict(values)))
    values = {name: value for report in reports for name, value in report.items()}
    assert len(values["all_seconds"]) == Clock(device, reports.append).timed
    assert 0 <= values["idle_share"] < 1
    assert values["peak_gb"] > 0


@pytest.mark.parametrize("is_deterministic", ["false", "true"])
def test_a_resumed_run_ends_near_the_straight_one(
    device: torch.device, is_deterministic: str
) -> None:
    values: dict[str, object] = {}
    demand = demand_of("sft", "lora", *LAB, f"training.deterministic={is_deterministic}")
    measure_resume(demand, device, None, values.update)
    # Kernels of a GPU may add in another order from run to run, unless they are asked not to; a
    # CPU's do not.
    bound = 1e-4 if device.type == "cuda" and is_deterministic == "false" else 0.0
    assert values["again, largest difference"] <= bound
    assert values["resumed, largest difference"] <= bound


@needs_gpu
def test_samples_are_those_of_the_cpu() -> None:
    (demand,) = read_request(PlanOptions(), ["method=sft", *LAB]).demands.values()
    latents = []
    for name in ("cpu", "cuda"):
        model = random_model(demand, torch.device("cpu"))
        model.pipeline.to(name)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(2, *model.latent_shape, generator=generator)
        sizes = demand.model.architecture().condition_shapes(0)
        condition = {
            key: torch.randn(2, *size, generator=generator).to(name) for key, size in sizes.items()
        }
        with torch.no_grad():
            latents.append(model.sample(condition, condition, noise, 4, 2.0).cpu())
            assert len(model.decode(latents[-1].to(name))) == 2
    assert torch.allclose(*latents, rtol=1e-2, atol=1e-3)


@needs_gpu
@pytest.mark.parametrize("judge", JUDGES)
def test_a_judge_of_the_published_size_judges(judge: str) -> None:
    with torch.inference_mode():
        scores = JUDGES[judge](torch.device("cuda"))([Image.new("RGB", (512, 512), "red")] * 3)
    assert len(scores) == 3
