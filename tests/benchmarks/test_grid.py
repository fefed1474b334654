"""The published grid on pretended clusters."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from soarbench.benchmarks import grid as bench
from soarbench.benchmarks.grid import GridBenchOptions, bench_grid, longest_path, planned, simulate
from soarbench.cli.app import main
from soarbench.grid.expand import expand
from soarbench.planning.memory_and_time import Demand

#: Of an update, as `plan` counts them on an H100; counting takes 15 s.
SECONDS = {"sft": 0.593, "soar": 4.347, "flow_grpo": 330.6}
WORDS = [*bench.DEFAULTS]


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def time(_self: object, demand: Demand, *_: object) -> SimpleNamespace:
        return SimpleNamespace(seconds=SECONDS[demand.method.kind])

    monkeypatch.setattr(bench.Planner, "time", time)
    monkeypatch.setattr(bench.Planner, "chosen", lambda _self, demand, _gb: demand)


@pytest.mark.parametrize(("gpus", "most"), [(8, 1.01), (64, 1.07)])
def test_the_published_grid_keeps_gpus_busy(gpus: int, most: float) -> None:
    grid, options = expand(WORDS), GridBenchOptions()
    work = planned(grid, options)
    result = simulate(work, gpus, options, grid)
    # 61 suites of 800 images, by 40 minutes of drawing or less.
    assert len(work.trainings) == 6
    assert result.busy(result.trained) >= 0.9
    assert result.loading < 0.05
    bound = max(result.gpu_seconds / gpus, longest_path(work, gpus))
    assert bound <= result.makespan <= most * bound
    # Images are drawn as soon as their snapshot is there.
    ends = {one.job.address: one.end for one in result.intervals if one.job.kind == "train"}
    early = [
        one
        for one in result.intervals
        if one.job.kind == "draw" and one.start < max(map(ends.get, one.job.waits_for), default=0)
    ]
    assert early or gpus == 8


def test_one_process_a_training_leaves_gpus_idle() -> None:
    grid, options = expand([*WORDS, "launcher.num_processes=1"]), GridBenchOptions()
    result = simulate(planned(grid, options), 8, options, grid)
    assert result.busy(result.trained) < 0.3


def test_the_table_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=200)
    assert bench_grid(GridBenchOptions(gpus=(4, 12)), ["method=sft"], console=console) == 0
    text = capsys.readouterr().out
    assert "4 GPUs" in text
    assert "12 GPUs" in text
    assert "Nothing was measured on a GPU" in text
    assert "processes that train sft" in text
    assert "flow_grpo" not in text


def test_clusters_without_gpus_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "grid", "gpus=[8,0]"]) == 2
    assert "gpus=[8, 0]" in capsys.readouterr().err
    assert main(["bench", "grid", "method=base"]) == 2
