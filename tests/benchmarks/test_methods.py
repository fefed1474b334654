"""The bench: what its workers measure on a tiny pipeline, and what is made of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
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
@pytest.mark.parametrize("kind", ["flow_grpo", "judging", "step", "race"])
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
        *("task.final_metric=oracle_aesthetic", "reward=tests.rewards.brightness"),
    ]
    arguments = [
        *("grid=reward_specific", "grid.tasks=[aesthetic]", f"model.path={pipeline}"),
        *(f"output_dir={tmp_path}", *SMALL, *small),
    ]
    assert main([kind, *arguments]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    if kind == "race":
        assert result["loss_difference"] < 1e-5
        assert result["gradient_difference"] < 1e-5
    elif kind == "judging":
        assert set(result) == {"sampling", "oracle_aesthetic"}
    elif kind == "flow_grpo":
        assert result["seconds"] > 0
        assert result["rows"] == 4
    assert all(value >= 0 for value in result.values())
