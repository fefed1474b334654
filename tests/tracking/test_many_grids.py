"""Eight grids deliver to one new store at once: SQLite, and PostgreSQL; none loses or doubles."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console

from soarbench.cli.run import run_whole
from soarbench.cli.sync import sync
from soarbench.common.errors import UserError
from soarbench.config.run import TrackingConfig
from soarbench.grid.expand import expand
from soarbench.tracking.tracker import Delivery
from tests.fakes import SMALL, FakeWorkbench

COUNT = 8
#: MLflow is imported once, and each process is a fork of that one.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__, "soarbench.tracking.runs"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished cells, of which no tracker was told."""
    root = tmp_path_factory.mktemp("finished")
    (root / "model").mkdir()
    (root / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    places = [f"{name}_dir={root / name}" for name in ("output", "results")]
    words = [
        "grid=reward_specific", f"model.path={root / 'model'}", *places, *SMALL, "tracking=none",
        "task=aesthetic", "method=sft", "diagnostics=false",
    ]  # fmt: skip
    bench = FakeWorkbench()
    console = Console(file=io.StringIO())
    assert (
        run_whole(expand(words), console=console, make_workbench=lambda g: bench.at(g.store)) == 0
    )
    return root / "output"


def deliver(folder: Path, uri: str, artifacts: str) -> None:
    words = [f"output_dir={folder}", f"tracking.uri={uri}", f"tracking.artifacts={artifacts}"]
    with folder.with_suffix(".txt").open("w") as stream:
        code = sync(words, console=Console(file=stream, width=200))
    raise SystemExit(code)


def at_once(finished: Path, root: Path, uri: str) -> list[str]:
    """Eight copies of a store are delivered at the same time; what those said that failed."""
    folders = [root / str(index) for index in range(COUNT)]
    for folder in folders:
        shutil.copytree(finished, folder)
    artifacts = (root / "artifacts").as_uri()
    processes = [FORKS.Process(target=deliver, args=(one, uri, artifacts)) for one in folders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [
        folder.with_suffix(".txt").read_text()
        for folder, process in zip(folders, processes, strict=True)
        if process.exitcode
    ]


def assert_whole(uri: str, root: Path) -> None:
    """Each grid has its launch and its two cells, with all numbers, once."""
    client = MlflowClient(tracking_uri=uri)
    names = sorted(experiment.name for experiment in client.search_experiments())
    assert names == ["Default", "reward_specific"]
    experiment = client.get_experiment_by_name("reward_specific")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    for method in ("base", "sft"):
        cells = [run for run in runs if run.data.tags.get("method") == method]
        assert len(cells) == COUNT
        assert {run.info.status for run in cells} == {"FINISHED"}
        assert len({run.data.tags["folder"] for run in cells}) == COUNT
        first = cells[0].data
        assert len(first.metrics) >= 4
        assert all(run.data.metrics == first.metrics for run in cells)
        assert all(run.data.params == first.params for run in cells)
        for run in cells:
            steps = [3, 6] if method == "sft" else [0]
            history = client.get_metric_history(run.info.run_id, "eval/aesthetic/mean")
            assert [point.step for point in history] == steps
    launches = [run for run in runs if run.data.tags["kind"] == "launch"]
    assert len(launches) == COUNT
    assert len(runs) == 3 * COUNT
    assert len(list((root / "artifacts").rglob("scores.parquet"))) == 2 * COUNT


@pytest.mark.slow
def test_on_a_new_sqlite_store(finished: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlruns.db'}"
    assert at_once(finished, tmp_path, uri) == []
    assert_whole(uri, tmp_path)


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 1)])
def test_a_data_set_that_another_process_wrote_meanwhile_is_asked_for_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, code: int
) -> None:
    log_inputs, raced = MlflowClient.log_inputs, []

    def late(client: MlflowClient, *words: object) -> None:
        if len(raced) < times:
            raced.append(words)
            raise MlflowException(
                "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name"
            )
        log_inputs(client, *words)

    monkeypatch.setattr(MlflowClient, "log_inputs", late)
    shutil.copytree(finished, tmp_path / "0")
    with pytest.raises(SystemExit) as ended:
        deliver(tmp_path / "0", f"sqlite:///{tmp_path / 'mlruns.db'}", tmp_path.as_uri())
    assert ended.value.code == code
    assert len(raced) == times


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A server of PostgreSQL's; its address without a database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: there is no /usr/lib/postgresql/*/bin/initdb")
    pytest.importorskip("psycopg", reason="pip install soarbench[postgres]")
    # It refuses to run as root, whose temporary folders nobody else can enter.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="soarbench-postgres-", dir="/tmp"))
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bin_dir, data = programs[-1].parent, folder / "data"

    def call(*words: object) -> None:
        command = [str(bin_dir / str(words[0])), *map(str, words[1:])]
        subprocess.run(
            command,
            check=True,
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            env={"LC_ALL": "C"},
        )

    call("initdb", "-D", data, "-U", "soar", "-A", "trust", "-E", "UTF8", "-N")
    options = f"-k {folder} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
    call("pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
    try:
        call("createdb", "-h", folder, "-p", port, "-U", "soar", "mlflow")
        yield f"postgresql+psycopg://soar:hush@127.0.0.1:{port}"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.mark.slow
def test_on_a_new_database_of_postgresql(finished: Path, tmp_path: Path) -> None:
    with postgres() as server:
        uri = f"{server}/mlflow"
        assert at_once(finished, tmp_path, uri) == []
        assert_whole(uri, tmp_path)
        missing = TrackingConfig(enabled=True, uri=f"{server}/nothing")
        with pytest.raises(UserError, match=r'soar:\*\*\*@.* "nothing" does not exist.*address'):
            Delivery(missing, tmp_path / "grids" / "x", pytest.fail)
    lines: list[str] = []
    Delivery(TrackingConfig(enabled=True, uri=uri), tmp_path / "grids" / "x", lines.append)
    (line,) = lines
    assert "Connection refused" in line
    assert "hush" not in line
