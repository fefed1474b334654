"""The tracking store's first seconds: kills, several processes at once, broken files."""

import itertools
import multiprocessing
import os
import re
import signal
import socket
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.tracking import sqlalchemy_store
from sqlalchemy import event
from sqlalchemy.engine import Engine

from soarbench.common.errors import UserError
from soarbench.config.run import TrackingConfig
from soarbench.tracking.runs import MlflowRuns
from soarbench.tracking.store import sqlite_file, store_uri
from soarbench.tracking.ui import ui_views

CONFIG = TrackingConfig(enabled=True)
#: One server imports MLflow once, and each child is its fork: a kill reaches the store alone.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


def opened(folder: Path) -> None:
    MlflowRuns(CONFIG, folder / "grids" / "grid")


def experiments(folder: Path) -> set[str]:
    found = MlflowClient(tracking_uri=store_uri(CONFIG, folder)).search_experiments()
    return {one.name for one in found}


def killed_at(folder: Path, statement: int) -> None:
    """As ``kill -9`` in the midst of making a store, always at the same statement."""
    counted = itertools.count(1)

    @event.listens_for(Engine, "before_cursor_execute")
    def count(*_: object) -> None:
        if next(counted) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    opened(folder)


# Of about 1,700; made in place, the store was broken by a kill at the last three.
@pytest.mark.slow
@pytest.mark.parametrize("statement", [1, 40, 250, 400])
def test_killed_while_it_is_made_the_store_is_made_by_the_next_run(
    tmp_path: Path, statement: int
) -> None:
    process = FORKS.Process(target=killed_at, args=(tmp_path, statement))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob(".mlruns.db.*.partial"))
    assert not (tmp_path / "mlruns.db").exists()
    opened(tmp_path)
    assert experiments(tmp_path) == {"Default", "grid"}
    assert not list(tmp_path.glob(".mlruns.db.*.partial*"))


@pytest.mark.slow
def test_four_processes_open_one_new_store(tmp_path: Path) -> None:
    processes = [FORKS.Process(target=opened, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert experiments(tmp_path) == {"Default", "grid"}


def test_a_store_lies_in_its_folder_whatever_that_is_called(tmp_path: Path) -> None:
    for name in ("müller #1", "half?x=1", "50%20off"):
        folder = tmp_path / name / "runs"
        opened(folder)
        assert (folder / "mlruns.db").is_file()
        assert experiments(folder) == {"Default", "grid"}
        # MLflow makes the folder of an address, and cannot where the one above is another's.
        strays = {path.name for path in tmp_path.iterdir()} - {name}
        assert "%C3" not in "".join(strays)


def test_interrupted_in_the_making_nothing_has_the_stores_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(address: str, _: str) -> None:
        Path(address.removeprefix("sqlite:///")).write_bytes(b"half a database")
        raise KeyboardInterrupt

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", half)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path)
    assert not (tmp_path / "mlruns.db").exists()


@pytest.mark.slow
def test_a_leftover_with_its_journal_is_discarded_and_an_empty_store_made_again(
    tmp_path: Path,
) -> None:
    process = FORKS.Process(target=int)
    process.start()
    process.join()
    host = re.sub(r"\W", "_", socket.gethostname())
    partial = f".mlruns.db.{host}-{process.pid}-0.partial"
    for name in (partial, f"{partial}-journal"):
        (tmp_path / name).write_bytes(b"half a database")
    (tmp_path / "mlruns.db").touch()  # as a version left it that made the file in place
    opened(tmp_path)
    assert experiments(tmp_path) == {"Default", "grid"}
    assert {path.name for path in tmp_path.iterdir()} <= {"mlruns.db", "mlruns.db.lock"}


@pytest.mark.slow
def test_a_store_whose_making_an_older_version_broke_off_is_refused_in_a_line(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mlruns.db"
    opened(tmp_path / "whole")
    file.write_bytes((tmp_path / "whole" / "mlruns.db").read_bytes())
    with sqlite3.connect(file) as broken:
        broken.execute("DROP TABLE datasets")
        broken.execute("DELETE FROM alembic_version")
    _refused(tmp_path, file)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0"])
def test_a_file_that_is_no_store_is_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlruns.db").write_bytes(content)
    _refused(tmp_path, tmp_path / "mlruns.db")


def _refused(folder: Path, file: Path) -> None:
    message = rf"^{file}: cannot be used for tracking \(.*\); .* move it away, .* tracking=none$"
    with pytest.raises(UserError, match=message) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="move it away"):
        ui_views(CONFIG, folder, 5000)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"mlruns\.db: its folder cannot be written to"):
        opened(tmp_path / "file")


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////runs/mlruns.db", "/runs/mlruns.db"),
        ("sqlite:///mine.db", "mine.db"),
        ("sqlite:///mine.db?timeout=5", "mine.db"),
        ("sqlite+pysqlite:///mine.db", "mine.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///file:mine.db?uri=true", None),
        ("postgresql://user@host/db", None),
        ("http://127.0.0.1:5000", None),
        ("nosuchscheme://x", None),
        ("./mlruns", None),
        ("databricks", None),
    ],
)
def test_which_stores_are_files(uri: str, file: str | None) -> None:
    assert sqlite_file(uri) == (None if file is None else Path(file))
