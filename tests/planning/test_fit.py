"""Whether cells fit on the GPUs that are there."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from soarbench.common.errors import UserError
from soarbench.config.run import ProcessesConfig
from soarbench.grid.expand import expand
from soarbench.jobs.graph import grid_jobs
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.planning.demand import PlanOptions, demand_of, read_request
from soarbench.planning.fake_transformer import MetaModel
from soarbench.planning.memory_and_time import Parameters, Passes, memory_rows
from soarbench.planning.planner import require_fit
from soarbench.store.artefact import Store

ONE = ProcessesConfig()
SFT = ["grid=reward_specific", "task=aesthetic", "method=sft"]


def test_a_cell_asks_for_what_plan_plans() -> None:
    words = ["model=sd35_medium", "data=lab_general", "launcher.num_processes=8"]
    words += ["launcher.parallelism=fsdp2"]
    planned = read_request(PlanOptions(), words).demands
    processes = ProcessesConfig(num_processes=8, parallelism="fsdp2")
    for cell in expand(["grid=reward_specific", "task=aesthetic", *words]).cells[1:]:
        assert demand_of(cell, processes) == planned[cell.method_name]


@pytest.fixture
def _a_gigabyte_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the counting of activations, which takes seconds."""

    def passes(meta: MetaModel, rows: int) -> Passes:
        size = 1e9 * rows + 4 * meta.parameters().trained
        return Passes(first=size, later=size)

    monkeypatch.setattr(MetaModel, "passes", passes)


@pytest.mark.usefixtures("_a_gigabyte_a_row")
def test_what_a_run_needs_is_said_and_what_cannot_fit_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cells = expand(SFT).cells
    with caplog.at_level(logging.INFO):
        require_fit(cells, ONE, name="Big GPU", memory=80e9)
    # 32 rows, 5 % more for the allocator, 1.5 GB for the context, 0.1 GB of weights.
    assert [record.getMessage() for record in caplog.records] == [
        "sft needs 35 GB of the 80 of Big GPU"
    ]
    with pytest.raises(UserError) as caught:
        require_fit(cells, ONE, name="Small GPU", memory=24e9)
    assert str(caught.value) == (
        "method=sft needs 35 GB on each GPU and Small GPU has 24: what would fit: "
        "training.micro_batch_size=16 (18 GB), training.micro_batch_size=1 (3 GB), "
        "training.micro_batch_size=1 training.gradient_checkpointing=true (3 GB)"
    )


@pytest.mark.usefixtures("_a_gigabyte_a_row")
def test_what_fits_in_training_and_not_in_drawing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MetaModel, "forward", lambda _: (1.0, 1e9))
    cells = expand([*SFT, "sampling.batch_size=30"]).cells
    # 60 rows with guidance, 5 % more for the allocator, 1.5 GB for the context.
    with pytest.raises(UserError) as caught:
        require_fit(cells, ONE, name="Mid GPU", memory=48e9)
    assert str(caught.value) == (
        "method=sft: drawing needs 65 GB on one GPU and Mid GPU has 48: what takes less: a smaller "
        "sampling.batch_size, judges on the CPU (judge.NAME.device=cpu), a larger GPU"
    )
    require_fit(expand([*SFT, "sampling.batch_size=15"]).cells, ONE, name="Mid GPU", memory=48e9)


def test_a_judge_on_the_cpu_takes_nothing_of_a_gpu() -> None:
    words = ["model=sd35_medium", "method=sft", "suites.drawbench.judges=[aesthetic]"]
    on_gpu = read_request(PlanOptions(), words).demands["sft"]
    on_cpu = read_request(PlanOptions(), [*words, "judge.aesthetic.device=cpu"]).demands["sft"]
    assert on_gpu.judges_gb > 1.7
    assert (on_cpu.judges_gb, on_cpu.judging_gb) == (0.0, 0.0)


def test_a_judge_takes_what_its_own_type_does() -> None:
    words = ["model=sd35_medium", "method=sft", "suites.drawbench.judges=[hpsv3]"]
    half = read_request(PlanOptions(), words).demands["sft"]
    whole = read_request(PlanOptions(), [*words, "judge.hpsv3.dtype=float32"]).demands["sft"]
    # 8.3e9 parameters.
    assert (half.judges_gb, whole.judges_gb) == pytest.approx((16.6, 33.2))


def test_processes_that_train_together_hold_the_judges_of_the_reward_alone() -> None:
    words = ["model=sd35_medium", "method=flow_grpo", "reward=aesthetic"]
    words += ["suites.drawbench.judges=[aesthetic,hpsv3]"]
    (asked,) = read_request(PlanOptions(), words).demands.values()
    assert asked.rewards_gb == pytest.approx(1.71, abs=0.01)
    assert asked.judges_gb == pytest.approx(asked.rewards_gb + 16.6)
    sizes, passes = Parameters(total=1, trained=1, buffers=0), Passes(first=0.0, later=0.0)
    alone, together = (
        memory_rows(replace(asked, num_processes=n), asked.model.architecture(), sizes, passes)
        for n in (1, 2)
    )
    assert alone["judges"] == pytest.approx(asked.judges_gb * 1e9)
    assert together["judges"] == pytest.approx(asked.rewards_gb * 1e9)


def test_an_unknown_hub_id_is_let_through_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    cells = expand([*SFT, "model.path=org/name"]).cells
    with caplog.at_level(logging.INFO):
        require_fit(cells, ONE, name="Small GPU", memory=1.0)
    assert "whether training fits is not checked: model.path=org/name" in caplog.text


@pytest.mark.usefixtures("_a_gigabyte_a_row")
def test_a_run_asks_before_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ModelWorkbench("cpu", Store(tmp_path))
    bench.device = torch.device("cuda:0")
    gpu = SimpleNamespace(name="Tiny GPU", total_memory=1e6)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(bench.models, "load", lambda _: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"method=sft needs \d+ GB on each GPU and Tiny GPU has 0"):
        bench.prepare(grid_jobs(expand(SFT).cells, diagnostics=False))
