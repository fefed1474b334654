"""Grids that work in one store at the same time share what they have in common."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from soarbench.cli.run import run_whole
from soarbench.grid.expand import expand
from tests.fakes import SMALL, FakeWorkbench, numbers

ROOT = Path(__file__).parents[2]
WORDS = ("grid=reward_specific", "task=aesthetic", "method=[sft]", *SMALL)


def begin(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    script = ROOT / "tests" / "fake_grid.py"
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, str(script), "0.1", *words],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.slow
def test_two_grids_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    alone = [*WORDS, f"output_dir={tmp_path / 'alone'}", f"results_dir={tmp_path / 'a'}"]
    alone += ["tracking=none"]
    bench = FakeWorkbench()
    make = lambda grid: bench.at(grid.store)  # noqa: E731
    assert run_whole(expand(alone), console=Console(file=io.StringIO()), make_workbench=make) == 0
    store = tmp_path / "shared"
    names = ("one", "two")
    grids = [
        begin(
            [
                *WORDS,
                f"grid.name={name}",
                f"output_dir={store}",
                f"results_dir={tmp_path / name}",
                "launcher.workers=2",
            ],
            tmp_path / f"{name}.log",
        )
        for name in names
    ]
    for name, process in zip(names, grids, strict=True):
        assert process.wait(timeout=300) == 0, (tmp_path / f"{name}.log").read_text()
    assert numbers(store) == numbers(tmp_path / "alone")
    # One of them trained, and the other one waited.
    (log,) = store.glob("trainings/*/training.jsonl")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines() if line] == [
        *range(1, 7)
    ]
    with closing(sqlite3.connect(store / "mlruns.db")) as database:
        cells = database.execute(
            "SELECT e.name, t.value, r.status FROM runs r JOIN tags t USING (run_uuid) "
            "JOIN experiments e USING (experiment_id) WHERE t.key = 'cell_id'"
        ).fetchall()
    assert len(cells) == 4
    assert Counter((name, status) for name, _, status in cells) == {
        (name, "FINISHED"): 2 for name in names
    }
