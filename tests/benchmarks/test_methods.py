"""The bench: what its workers measure on a tiny pipeline, and what is made of it."""

from __future__ import annotations

import io
import json
import math
import mmap
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from soarbench.benchmarks.methods import (
    NAIVE,
    RACE,
    STEP,
    comparison,
    judging_table,
    training_table,
)
from tests.fakes import SMALL

RESULTS = {
    "sft": {"rows": 32.0, "seconds": 0.5, "forward_equivalents": 96.0, "peak_mib": 200.0},
    "soar": {"rows": 32.0, "seconds": 3.0, "forward_equivalents": 704.0, "peak_mib": 300.0},
    STEP: {"peak_mib": 250.0},
    NAIVE: {"peak_mib": 1000.0},
    RACE: {STEP: 3.0, NAIVE: 4.0, "loss_difference": 1e-7, "gradient_difference": 2e-6},
}


def test_the_naive_step_is_compared_in_time_memory_and_result() -> None:
    text = " ".join(comparison(RESULTS))
    assert "0.75 of the time and 0.25 of the memory" in text
    assert "1.0e-07 (loss)" in text
    assert "2.0e-06 (gradient)" in text
    assert comparison({"sft": RESULTS["sft"]}) == []


def test_tables_hold_a_row_a_measurement() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120)
    console.print(training_table({name: RESULTS[name] for name in ("sft", "soar")}, "lab"))
    console.print(judging_table({"sampling": 1.25, "clipscore": 160.0}))
    for text in ("704", "0.500", "300", "sampling", "1.25", "160.00"):
        assert text in stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "flow_grpo", "judging", "step", "race"])
def test_a_worker_measures_a_tiny_pipeline(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from soarbench.benchmarks.worker import main
    from tests.tiny import build_tiny_pipeline

    pipeline = tmp_path_factory.getbasetemp() / "tiny_bench"
    if not pipeline.exists():
        build_tiny_pipeline(pipeline)
    small = [
        *("sampling.num_inference_steps=2", "method.num_inference_steps=4"),
        *("method.group_size=2", "training.batch_size=4", "lora.rank=2", "device=cpu"),
        *("suites.drawbench.judges=[oracle_aesthetic]", "data.select_by=[]"),
        "data.keep_fraction=1",
        *("task.final_metric=oracle_aesthetic", "reward=tests.rewards.brightness"),
    ]
    arguments = [
        *("grid=reward_specific", "grid.tasks=[aesthetic]", f"model.path={pipeline}"),
        *(f"output_dir={tmp_path}", *SMALL, *small),
    ]
    start = time.perf_counter()
    assert main([kind, *arguments]) == 0
    passed = time.perf_counter() - start
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    if kind == "race":
        assert result.keys() == {"naive", "step", "loss_difference", "gradient_difference"}
        assert result["loss_difference"] < 1e-5
        assert result["gradient_difference"] < 1e-5
        # Three timed updates of each, of which the fastest counts.
        assert min(result["naive"], result["step"]) > 0
        assert 3 * (result["naive"] + result["step"]) < passed
    elif kind == "judging":
        assert result.keys() == {"sampling", "oracle_aesthetic", "brightness"}
        # Two images: each rate is of less time than the whole took.
        assert all(2 / passed < rate < math.inf for rate in result.values())
    elif kind == "step":
        assert result.keys() == {"peak_mib"}
    else:
        assert result.keys() == {"seconds", "peak_mib", "forward_equivalents", "rows"}
        assert 0 < result["seconds"] < passed
        assert result["rows"] == 4
        # SFT: 4 rows, forward and backward. Flow-GRPO: 4 sampler steps a row, of which 2 are
        # trained with the reference's forward.
        assert result["forward_equivalents"] == {"sft": 4 * 3, "flow_grpo": 4 * (4 + 2 * 4)}[kind]


MIB = 2**20
CPU = torch.device("cpu")


def hold(mib: int) -> None:
    # Mapped by hand: an allocator may keep what is freed, or have it lying there already.
    with mmap.mmap(-1, mib * MIB) as pages:
        for page in range(0, len(pages), mmap.PAGESIZE):
            pages[page] = 1


def test_peak_memory_is_what_was_held_since_the_measurement_began() -> None:
    from soarbench.benchmarks.memory import PeakMemory

    hold(200)
    memory = PeakMemory(CPU)
    assert memory.above_idle() < 50
    hold(100)
    assert 95 < memory.above_idle() < 150


def test_memory_that_was_freed_before_is_not_in_use() -> None:
    from soarbench.benchmarks.memory import PeakMemory

    # Every second block is freed: glibc keeps that memory, and gives it to whoever asks next.
    blocks = [torch.ones(MIB // 64) for _ in range(2 * 200 * 16)]
    before = PeakMemory(CPU).idle
    del blocks[::2]
    assert (before - PeakMemory(CPU).idle) / MIB == pytest.approx(200, abs=20)


@pytest.mark.parametrize(("kind", "mib"), [("naive", 120), ("step", 60)])
def test_a_steps_memory_is_that_of_the_update_that_was_asked_for(
    kind: str,
    mib: int,
    overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from soarbench.benchmarks import worker

    updates: list[bool] = []

    class Steps:
        def __init__(self, *_: object) -> None:
            hold(200)

        def update(self, *, is_naive: bool) -> None:
            updates.append(is_naive)
            hold(120 if is_naive else 60)

    monkeypatch.setattr(worker, "SoarSteps", Steps)
    assert worker.main([kind, *overrides, "device=cpu"]) == 0
    assert set(updates) == {kind == "naive"}
    result = json.loads(capsys.readouterr().out)
    assert result == {"peak_mib": pytest.approx(mib, abs=20)}
