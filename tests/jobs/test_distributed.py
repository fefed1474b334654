"""Cells that two processes train: the same numbers, and failures that say what happened."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from baselines.loop.checkpoints import checkpoint_path, mark_complete
from soarbench.common.errors import UserError
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid, expand
from soarbench.jobs import distributed, torchrun
from soarbench.jobs.distributed import DistributedWorkbench
from soarbench.jobs.torchrun import LAUNCH_PID, Span, last_error
from soarbench.jobs.train import trained_folder
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.store.training import TrainingFolder, TrainingLog, read_training_log
from tests.fakes import SMALL
from tests.tiny import build_tiny_pipeline


def grid_of(root: Path, *changes: str) -> Grid:
    pipeline = root / "model"
    if not pipeline.is_dir():
        build_tiny_pipeline(pipeline)
    return expand(
        [
            *("grid=reward_specific", "grid.tasks=[aesthetic]", "method=sft", "device=cpu"),
            *("tracking=none", f"model.path={pipeline}", f"output_dir={root / 'runs'}"),
            *(*SMALL, "training.batch_size=4", "data.num_candidates=12"),
            *("data.select_by=[oracle_aesthetic]", "task.final_metric=oracle_aesthetic"),
            *("suites.drawbench.judges=[oracle_aesthetic]", *changes),
        ]
    )


def sft(grid: Grid) -> CellConfig:
    return grid.cells[1]


@pytest.mark.slow
def test_two_processes_train_a_cell_as_one_does(tmp_path: Path) -> None:
    # Whole copies: tests/jobs/test_image_runs.py.
    alone = grid_of(tmp_path)
    shards = grid_of(tmp_path, "launcher.num_processes=2", "launcher.parallelism=fsdp2")
    assert len({addresses.cell_id(sft(grid)) for grid in (alone, shards)}) == 1
    logs, steps = [], []
    for name, grid in (("one", alone), ("shards", shards)):
        one = ModelWorkbench("cpu", grid.store)
        bench = one if name == "one" else DistributedWorkbench(grid)
        folder = trained_folder(bench.store, sft(grid))
        folder.root.mkdir(parents=True)
        bench.sets.rows(sft(grid), bench.models.load(sft(grid)))
        cost = bench.train(sft(grid), lambda step, _: steps.append(step))
        assert (cost["optimizer_steps"], cost["images_seen"]) == (6, 24)
        assert folder.snapshot(6).is_dir()
        logs.append({k: v for k, v in read_training_log(folder).items() if k[1] == "train/loss"})
        folder.root.rename(tmp_path / name)
    first, second = logs
    assert second.keys() == first.keys()
    assert list(second.values()) == pytest.approx(list(first.values()), abs=1e-5)
    assert steps[-1] == 6
    # What shards were gathered into is evaluated as any other weights are.
    (tmp_path / "shards").rename(folder.root)
    bench = ModelWorkbench("cpu", shards.store)
    weights = bench.models.at(sft(shards), 6).transformer.state_dict()
    snapshot = TrainingFolder(tmp_path / "one").snapshot(6)
    for name, value in load_file(next(snapshot.glob("*.safetensors"))).items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)


class Following:
    """Processes that train on from a step, and log one more step a look."""

    returncode = 0

    def __init__(self, folder: TrainingFolder, steps: Sequence[int]) -> None:
        self.folder, self.steps = folder, list(steps)

    def poll(self) -> int | None:
        if not self.steps:
            return 0
        with TrainingLog(self.folder) as log:
            log.append(self.steps.pop(0), {"train/loss": 0.5})
        return None


@pytest.mark.parametrize("checkpoint", [0, 2])
def test_steps_after_the_checkpoint_are_not_passed_on_before_they_are_trained_again(
    checkpoint: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(tmp_path, "launcher.num_processes=2")
    bench, passed = DistributedWorkbench(grid), list[int]()
    folder = trained_folder(grid.store, sft(grid))
    folder.root.mkdir(parents=True)
    with TrainingLog(folder) as log:
        for step in range(1, 5):
            log.append(step, {"train/loss": 0.5})
            if step == checkpoint:
                place = checkpoint_path(folder.root, step)
                place.mkdir()
                log.save(place)
                mark_complete(place)

    @contextlib.contextmanager
    def started(*_: object) -> Iterator[Following]:
        yield Following(folder, range(checkpoint + 1, 7))

    monkeypatch.setattr(distributed, "started", started)
    monkeypatch.setattr(distributed, "_SECONDS_BETWEEN_LOOKS", 0.0)
    bench.train(sft(grid), lambda step, _: passed.append(step))
    assert passed == list(range(checkpoint + 1, 7))


def test_a_failing_process_says_why_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "processes.log"
    log.write_text(
        "Traceback (most recent call last):\n"
        "[rank1]: soarbench.common.errors.UserError: model.path=x: holds a Kandinsky\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
    )
    expected = (
        f"soarbench.common.errors.UserError: model.path=x: holds a Kandinsky (all of it: {log})"
    )
    assert last_error([log], 1) == expected
    log.write_text("Killed\n")
    assert last_error([log], 137) == f"exit code 137 (all of it: {log})"


def test_the_cause_may_be_on_another_node(tmp_path: Path) -> None:
    here, there = Span(processes=1, nodes=2, master="a:1").logs(tmp_path)
    here.write_text("RuntimeError: [pair.cc:534] Connection closed by peer [10.0.0.2]:4711\n")
    assert last_error([here, there], 1).startswith("RuntimeError: [pair.cc:534] Connection closed")
    there.write_text("[rank1]: torch.OutOfMemoryError: CUDA out of memory\n")
    expected = f"torch.OutOfMemoryError: CUDA out of memory (all of it: {there})"
    assert last_error([here, there], 1) == expected


def test_torch_is_told_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Span.current(2).words == ["--standalone", "--nproc-per-node", "2"]
    span = Span(processes=8, nodes=2, node=1, master="10.0.0.1:29500", gpu_memory_gb=79.6)
    for name, value in span.variable.items():
        monkeypatch.setenv(name, value)
    assert Span.current(2) == span
    assert " ".join(span.words) == (
        "--nproc-per-node 8 --nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --master-port 29500"
    )


def test_a_batch_that_processes_cannot_share_is_refused_at_once(overrides: list[str]) -> None:
    with pytest.raises(UserError, match=r"method=sft: training\.batch_size=32: must be a multiple"):
        expand([*overrides, "launcher.num_processes=5"])


@pytest.mark.parametrize("gone", ["the launch", "torch's launcher"])
def test_a_worker_ends_with_its_launch(gone: str, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, time\n"
        "from soarbench.jobs.torchrun import end_with_launch\n"
        "end_with_launch()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    starts = f"import subprocess, sys; subprocess.run([sys.executable, {str(worker)!r}])"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as launch:
        launcher = subprocess.Popen(
            [sys.executable, "-c", starts],
            env={**os.environ, LAUNCH_PID: str(launch.pid)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert launcher.stdout is not None
        process = psutil.Process(int(launcher.stdout.readline()))
        assert process.is_running()
        # Which cannot be caught.
        (launch if gone == "the launch" else launcher).kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            process.wait(30)
        launch.kill()
        launcher.kill()
        launcher.communicate()


def test_a_node_whose_processes_end_badly_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that leads may wait for these until a collective's time is over."""
    waited: list[float] = []
    grid = grid_of(tmp_path)
    cell = grid.cells[-1]
    folder = trained_folder(grid.store, cell)

    @contextlib.contextmanager
    def started(*_: object) -> Iterator[subprocess.Popen[bytes]]:
        with span.logs(folder.root)[1].open("w") as log:
            words = [sys.executable, "-c", "raise RuntimeError('no memory is left')"]
            with subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT) as process:
                yield process

    span = Span(processes=1, nodes=2, node=1, master="a:1")
    monkeypatch.setattr(torchrun, "started", started)
    monkeypatch.setattr("soarbench.jobs.torchrun.time.sleep", waited.append)
    with pytest.raises(RuntimeError, match=r"no memory is left .*processes-1\.log"):
        torchrun.join(grid, cell, span)
    assert waited == [60.0]
