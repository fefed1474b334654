"""Kills are made and counted, and whatever they could have changed is seen."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from soarbench.benchmarks.soak import soak as soak_module
from soarbench.benchmarks.soak import victims
from soarbench.benchmarks.soak.chain import Killer, run_straight
from soarbench.benchmarks.soak.comparison import RunFolder, differences
from soarbench.benchmarks.soak.soak import Soak, SoakOptions, soak_command
from soarbench.cli.run import run_whole
from soarbench.common.errors import UserError
from soarbench.common.files import read_json, write_json
from soarbench.grid.expand import expand
from tests.fakes import SMALL, FakeWorkbench

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("straight"))
    words = ["grid=reward_specific", "task=aesthetic", "method=[sft]", *SMALL, *folder.words]
    bench = FakeWorkbench()
    console = Console(file=io.StringIO())
    make = lambda grid: bench.at(grid.store)  # noqa: E731
    assert run_whole(expand(words), console=console, make_workbench=make) == 0
    return folder


@pytest.fixture
def copy(straight: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(straight.root, tmp_path / "copy"))


def first(folder: RunFolder, pattern: str) -> Path:
    return min(folder.root.rglob(pattern))


def test_a_run_is_like_itself_also_when_its_seconds_and_times_are_others(
    straight: RunFolder, copy: RunFolder
) -> None:
    cost = first(copy, "cost.json")
    write_json(cost, {**read_json(cost), "seconds": 77.0})
    record = first(copy, "artefact.json")
    write_json(record, {**read_json(record), "launches": []})
    path = first(copy, "table.csv")
    with path.open(newline="") as stream:
        rows = [{**row, "seconds": "77.0"} for row in csv.DictReader(stream)]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    (copy.store / "grids/reward_specific/live.json").write_text("{}")
    with closing(sqlite3.connect(copy.store / "mlruns.db")) as database, database:
        database.execute("UPDATE metrics SET value = 77 WHERE key = 'spent/seconds'")
        database.execute("UPDATE runs SET start_time = 7")
    assert differences(straight, copy) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_picture(folder: RunFolder) -> str:
    path = first(folder, "runs/images/**/*.png")
    flip(path)
    return f"{path.relative_to(folder.store)}: differs"


def flip_snapshot(folder: RunFolder) -> str:
    path = first(folder, "runs/trainings/*/snapshots/*/weights")
    flip(path)
    return f"{path.relative_to(folder.store)}: differs"


def lose_scores(folder: RunFolder) -> str:
    path = first(folder, "runs/scores/*/rows.parquet")
    path.unlink()
    return f"{path.relative_to(folder.store)}: missing"


def lose_a_row(folder: RunFolder) -> str:
    path = first(folder, "runs/scores/*/rows.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    return f"{path.relative_to(folder.store)}: differs"


def lose_a_step(folder: RunFolder) -> str:
    path = first(folder, "runs/trainings/*/training.parquet")
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.field("step") != 3), path)
    return f"{path.relative_to(folder.store)}: differs"


def change_a_logged_step(folder: RunFolder) -> str:
    path = first(folder, "runs/trainings/*/training.jsonl")
    path.write_text(path.read_text().replace('"train/loss": 0.5', '"train/loss": 0.6'))
    return f"{path.relative_to(folder.store)}: differs"


def forget_an_extent(folder: RunFolder) -> str:
    path = first(folder, "runs/images/*/artefact.json")
    write_json(path, {**read_json(path), "extents": []})
    return f"{path.relative_to(folder.store)}: differs"


def leave_a_partial(folder: RunFolder) -> str:
    path = first(folder, "runs/scores/*/rows.parquet")
    (path.parent / "rows.parquet.7.partial").touch()
    return f"{(path.parent / 'rows.parquet.7.partial').relative_to(folder.root)}: left over"


def leave_a_checkpoint(folder: RunFolder) -> str:
    path = first(folder, "runs/trainings/*/training.parquet").parent / "checkpoint-4"
    path.mkdir()
    return f"{path.relative_to(folder.root)}: left over"


def change_the_table(folder: RunFolder) -> str:
    path = first(folder, "table.csv")
    path.write_text(path.read_text().replace("True", "False", 1))
    return "results/reward_specific/table.csv: differs"


def sql(folder: RunFolder, *lines: str) -> None:
    with closing(sqlite3.connect(folder.store / "mlruns.db")) as database, database:
        for line in lines:
            assert database.execute(line).rowcount > 0


CELL = "SELECT run_uuid FROM tags WHERE key = 'cell_id' AND value LIKE 'sft-%'"


def double_a_run(folder: RunFolder) -> str:
    columns = "name, status, start_time, artifact_uri, experiment_id, lifecycle_stage"
    sql(
        folder,
        f"INSERT INTO runs (run_uuid, {columns}) SELECT 'twin', {columns} FROM runs "
        f"WHERE run_uuid = ({CELL})",
        f"INSERT INTO tags SELECT key, value, 'twin' FROM tags WHERE run_uuid = ({CELL})",
    )
    return "MLflow: run of sft-"


def lose_a_checkpoint(folder: RunFolder) -> str:
    sql(folder, f"UPDATE logged_models SET status = 1 WHERE source_run_id = ({CELL})")
    return "MLflow: run of sft-"


def double_a_point(folder: RunFolder) -> str:
    sql(
        folder,
        "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics "
        f"WHERE run_uuid = ({CELL}) AND key = 'train/loss' LIMIT 1",
    )
    return "MLflow: run of sft-"


def leave_a_run_unfinished(folder: RunFolder) -> str:
    sql(folder, f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ({CELL})")
    return "MLflow: run of sft-"


def leave_a_launch_running(folder: RunFolder) -> str:
    launch = "SELECT run_uuid FROM tags WHERE key = 'kind' AND value = 'launch'"
    sql(folder, f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ({launch})")
    return "MLflow: launches that still run: nothing the like"


@pytest.mark.parametrize(
    "harm",
    [
        flip_picture, flip_snapshot, lose_scores, lose_a_row, lose_a_step, change_a_logged_step,
        forget_an_extent, leave_a_partial, leave_a_checkpoint, change_the_table, double_a_run,
        double_a_point, lose_a_checkpoint, leave_a_run_unfinished, leave_a_launch_running,
    ],
)  # fmt: skip
def test_one_fault_is_seen_and_named(
    straight: RunFolder, copy: RunFolder, harm: Callable[[RunFolder], str]
) -> None:
    expected = harm(copy)
    lines = differences(straight, copy)
    assert any(line.startswith(expected) for line in lines), lines
    assert len(lines) <= 2


def test_cached_tensors_are_compared_by_their_entries(tmp_path: Path) -> None:
    import torch

    from soarbench.models.tensor_store import TensorStore

    here, there = RunFolder(tmp_path / "here"), RunFolder(tmp_path / "there")
    values = torch.arange(6.0).reshape(2, 3)
    TensorStore(here.store / "cache/p").add(["a", "b"], {"x": values})
    for row, key in enumerate("ab"):
        TensorStore(there.store / "cache/p").add([key], {"x": values[row : row + 1]})
    assert differences(here, there) == []
    shutil.rmtree(there.store / "cache/p")
    TensorStore(there.store / "cache/p").add(["a", "b"], {"x": values + 1})
    assert differences(here, there) == ["cache/p: a differs", "cache/p: b differs"]


#: Writes ten files, one after the other, as a command that can be killed anywhere.
WRITER = """
import os, pathlib, sys, time
store = pathlib.Path(next(w for w in sys.argv if w.startswith("output_dir=")).partition("=")[2])
for number in range(10):
    path = store / "images" / f"{number}.txt"
    if not path.exists():
        time.sleep(0.1)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".new")
        partial.write_text(%s)
        partial.replace(path)
%s
"""


def writer(content: str = "'the same'", end: str = "") -> tuple[str, ...]:
    return (sys.executable, "-c", WRITER % (content, end))


def chain_of(command: tuple[str, ...], tmp_path: Path):
    folder = RunFolder(tmp_path / "straight")
    seconds = run_straight(writer(), folder)
    killer = Killer(command=command, straight=folder, seconds=seconds)
    return killer.run(RunFolder(tmp_path / "chain"), np.random.default_rng(3), 4)


def test_a_chain_kills_until_it_is_done_and_counts_only_what_died(tmp_path: Path) -> None:
    chain = chain_of(writer(), tmp_path)
    assert chain.faults == []
    assert chain.is_compared
    assert chain.exits == [-9] * len(chain.kills) + [0]
    assert 1 <= len(chain.kills) <= 4
    assert {kill.victim for kill in chain.kills} == {"orchestrator"}
    assert [kill.launch for kill in chain.kills] == [*range(1, len(chain.kills) + 1)]


@pytest.mark.parametrize(
    ("content", "end", "fault"),
    [
        ("str(os.getpid())", "", "0.txt: differs"),
        ("'the same'", "(store / 'x.partial').touch()", "runs/x.partial: left over"),
        ("'the same'", "sys.exit('no more room')", "ended with 1: no more room"),
        (
            "'the same'",
            "import subprocess; subprocess.Popen(['sleep', '60'])",
            "outlived its run",
        ),
    ],
)
def test_a_chain_that_goes_wrong_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, end: str, fault: str
) -> None:
    monkeypatch.setattr("soarbench.benchmarks.soak.chain._SECONDS_TO_GO", 0.5)
    chain = chain_of(writer(content, end), tmp_path)
    assert any(fault in line for line in chain.faults), chain.faults


def test_what_is_dead_already_is_no_victim() -> None:
    command = [sys.executable, "-c", "pass"]
    with subprocess.Popen(command, env=os.environ | {victims.TOKEN: "t"}) as process:
        one = psutil.Process(process.pid)
        while one.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not victims.kill(one)
        assert victims.processes("t") == []


def test_a_run_that_cannot_end_well_is_told_before_any_kill(tmp_path: Path) -> None:
    options = SoakOptions(output_dir=str(tmp_path), launchers=("local",))
    with pytest.raises(UserError, match="fails without a kill, too: no more room"):
        soak_command(options, [], writer(end="sys.exit('no more room')"), Console(quiet=True))


@pytest.mark.slow
def test_a_grid_on_two_workers_survives_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = SoakOptions(output_dir=str(tmp_path / "soak"), launchers=("local",), kills=3, seed=2)
    stream = io.StringIO()
    words = [*SMALL, "diagnostics=false"]
    command = (sys.executable, str(ROOT / "tests" / "fake_grid.py"), "0.2")
    code = soak_command(options, words, command, Console(file=stream))
    record = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert record["counts"]["launcher"] == {"local": 3}
    assert [chain["faults"] for chain in record["chains"]] == [[]] * len(record["chains"])
    assert code == 0
    assert "3 kills" in stream.getvalue()
    # What was alike is not kept.
    assert [path.name for path in (tmp_path / "soak").glob("chain-*")] == []


def test_without_ray_its_launchers_are_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    options = SoakOptions(output_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"Ray is not installed; .* give launchers=\[local,proc"):
        soak_command(options, [], writer(), Console(quiet=True))


def test_a_soak_that_was_ended_goes_on_and_one_of_other_words_is_refused(tmp_path: Path) -> None:
    facts = {"words": ["a=1"], "commit": "c"}
    Soak(tmp_path / "soak.json", facts, {"s": 1.0}, [{"launcher": "local", "kills": []}]).write()
    assert Soak.at(tmp_path / "soak.json", facts).seconds == {"s": 1.0}
    with pytest.raises(UserError, match="is of other words; choose another output_dir"):
        Soak.at(tmp_path / "soak.json", {**facts, "words": ["a=2"]})


def test_kills_are_counted_by_what_was_running() -> None:
    running = ["sft seed 0: judge lab_geneval at step 6 by x 1/3", "base: draw y at step 0 0/3"]
    assert soak_module.sorts_of(running) == {"judge", "draw"}
    assert soak_module.sorts_of(["loading models and judges 0/1"]) == {"loading"}
    assert soak_module.sorts_of([]) == {"no job"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"launchers": ("kubernetes",)}, "launchers=kubernetes: is none; choose of local"),
        ({"launchers": ()}, "name one or more"),
        ({"kills": 0}, "kills=0: must be 1 or more"),
        ({"minutes": 0.0}, "minutes=0.0: must be more than 0"),
    ],
)
def test_bad_words_are_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoakOptions(output_dir="x", **words)  # type: ignore[arg-type]
