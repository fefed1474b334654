"""A process that was thought lost comes back when another one has done its work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soarbench.benchmarks.soak.comparison import RunFolder, differences
from tests.fakes import SMALL
from tests.tiny import build_tiny_pipeline

ROOT = Path(__file__).parents[2]


def begin(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "soarbench", "run", *words],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.slow
def test_a_late_maker_finds_its_job_done_and_changes_nothing(tmp_path: Path) -> None:
    build_tiny_pipeline(tmp_path / "model")
    folder = RunFolder(tmp_path / "run")
    words = [
        *("grid=reward_specific", "grid.tasks=[aesthetic]", "method=sft", "tracking=none"),
        *(f"model.path={tmp_path / 'model'}", *SMALL, *folder.words, "diagnostics=false"),
        *("training.batch_size=4", "data.num_candidates=12", "launcher.workers=1"),
        *("data.select_by=[oracle_aesthetic]", "task.final_metric=oracle_aesthetic"),
        "suites.drawbench.judges=[oracle_aesthetic]",
    ]
    late = begin(words, tmp_path / "late.txt")
    try:
        while not list(folder.store.glob("trainings/*/checkpoint-*/manifest.json")):
            assert late.poll() is None, (tmp_path / "late.txt").read_text()
            time.sleep(0.002)
        late.send_signal(signal.SIGSTOP)
        assert not list(folder.store.glob("trainings/*/training.parquet"))
        # As a lock server does with those of a node that it no longer hears.
        for lock in list(folder.store.rglob(".lock")):
            lock.unlink()
        other = begin(words, tmp_path / "other.txt")
        assert other.wait(timeout=300) == 0, (tmp_path / "other.txt").read_text()
        # What the late one has half written is its own to finish, and to take away.
        unfinished = shutil.ignore_patterns("*.partial*")
        copy = shutil.copytree(folder.root, tmp_path / "expected", ignore=unfinished)
        expected = RunFolder(copy)

        late.send_signal(signal.SIGCONT)
        assert late.wait(timeout=300) == 0, (tmp_path / "late.txt").read_text()
    finally:
        late.kill()
    assert differences(expected, folder) == []
    # Not one line more, and nobody who would have to be asked who is right.
    for name in ("training.jsonl", "cost.json", "manifest.json", "owner.json"):
        (path,) = folder.store.glob(f"trainings/*/{name}")
        assert path.read_bytes() == (expected.root / path.relative_to(folder.root)).read_bytes()
