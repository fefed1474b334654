"""``status``: what another terminal sees of a grid."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from soarbench.cli.run import run_whole
from soarbench.cli.status import status
from soarbench.common.errors import UserError
from soarbench.common.files import locked, write_json
from soarbench.grid.expand import Grid, expand
from soarbench.launchers.live import Live
from tests.fakes import FakeWorkbench


@pytest.fixture
def words(overrides: list[str]) -> list[str]:
    return [*overrides, "tracking=none", "task=aesthetic"]


def run(words: list[str], bench: FakeWorkbench) -> Grid:
    grid = expand(words)
    run_whole(
        grid,
        console=Console(file=io.StringIO()),
        make_workbench=lambda grid: bench.at(grid.store),
    )
    return grid


def said(grid: Grid, *more: str, as_json: bool = False) -> str:
    stream = io.StringIO()
    words = [f"output_dir={grid.settings.output_dir}", *more]
    assert status(words, as_json=as_json, console=Console(file=stream, width=200)) == 0
    return stream.getvalue()


def test_a_finished_grid_does_not_run_and_names_what_failed(words: list[str]) -> None:
    grid = run(words, FakeWorkbench(broken="soar aesthetic seed 0"))
    text = said(grid)
    assert text.startswith("reward_specific: 3 of 4 cells finished, 1 failed; does not run\n")
    assert "FAILED soar-aesthetic-seed0" in text
    values = json.loads(said(grid, as_json=True))["reward_specific"]
    assert values["cells"] == {"finished": 3, "failed": 1}
    assert values["live"] == {}


def test_one_grid_can_be_asked_about(words: list[str]) -> None:
    grid = run(words, FakeWorkbench())
    run([*words, "grid.name=other"], FakeWorkbench())
    assert said(grid).count("cells finished") == 2
    assert said(grid, "grid=reward_specific").startswith("reward_specific: 4 of 4 cells finished")
    assert said(grid, "grid=reward_specific").count("cells finished") == 1
    # No YAML has its name.
    assert said(grid, "grid=other").startswith("other: 4 of 4 cells finished")
    with pytest.raises(
        UserError, match=r"grid=ablation: was not run in .*; other, reward_specific"
    ):
        said(grid, "grid=ablation")


def test_a_running_grid_says_what_runs_and_how_long(words: list[str]) -> None:
    grid = run(words, FakeWorkbench())
    live = {
        "share": 0.42, "seconds_left": 3723.0, "facts": "7 of 8 GPUs busy",
        "images_per_second": 12.34, "running": ["soar aesthetic seed 0: train 5/60 loss 0.1"],
    }  # fmt: skip
    Live(grid.folder).keep(live)
    with locked(grid.folder):
        head, running = said(grid).splitlines()
    assert head.startswith(
        "reward_specific: 4 of 4 cells finished; 42 %, 1:02:03 left, 7 of 8 GPUs busy, "
        "12.3 images a second (process "
    )
    assert running == "  soar aesthetic seed 0: train 5/60 loss 0.1"
    assert "does not run" in said(grid)


@pytest.mark.parametrize(("silence", "running"), [(5.0, True), (5000.0, False)])
def test_another_machines_grid_runs_as_long_as_it_writes(
    words: list[str], silence: float, running: bool
) -> None:
    grid = run(words, FakeWorkbench())
    path = Live(grid.folder).path
    elsewhere = {**json.loads(path.read_text()), "host": "gpu01", "time": time.time() - silence}
    write_json(path, elsewhere)
    assert ("does not run" in said(grid)) != running


def test_where_nothing_ran_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no grid was run there yet"):
        status([f"output_dir={tmp_path}"], as_json=False, console=Console())


def test_a_store_that_can_be_read_alone_says_what_runs(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = run(words, FakeWorkbench())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(grid.folder / ".lock"))

    with locked(grid.folder):
        monkeypatch.setattr(FileLock, "acquire", refuse)
        assert f"(process {os.getpid()} on " in said(grid)
    assert said(grid).endswith("cells finished; does not run\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE, errno.EIO])
def test_a_disk_that_is_full_or_away_under_the_view_ends_no_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    Live(tmp_path).keep({"share": 0.1})
    monkeypatch.setattr("baselines.loop.disk.flush", full)
    Live(tmp_path).keep({"share": 0.2})
    kept = Live(tmp_path).read()
    assert kept is not None
    assert kept["share"] == 0.1
