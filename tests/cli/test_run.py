"""A whole grid: finished once, interrupted anywhere, failing in places."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from soarbench.cli.dry_run import dry_table, unrated_lines
from soarbench.cli.report import report
from soarbench.cli.run import run, run_whole
from soarbench.cli.words import read
from soarbench.common.errors import UserError
from soarbench.common.files import (
    locked,
    make_writable,
    read_json,
    require_writable,
    write_atomically,
)
from soarbench.grid import addresses
from soarbench.grid.description import cell_record, describe
from soarbench.grid.expand import expand
from soarbench.jobs.graph import grid_jobs
from soarbench.jobs.recorded import with_recorded
from soarbench.jobs.repair import set_damaged_aside
from soarbench.report.folder import report_folder
from soarbench.report.options import ReportOptions
from soarbench.report.source import cells_of
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord
from soarbench.store.tables import ProbeFolder
from tests.fakes import FakeWorkbench, numbers

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from rich.console import Console
from soarbench.grid.expand import expand
from soarbench.cli.run import run_whole
from tests.fakes import FakeWorkbench
delay, *arguments = sys.argv[1:]
bench = FakeWorkbench(delay=float(delay))
make = lambda grid: bench.at(grid.store)
sys.exit(run_whole(expand(arguments), console=Console(), make_workbench=make))
"""


def go(arguments: list[str], bench: FakeWorkbench) -> tuple[int, str]:
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    grid = expand(arguments)
    code = run_whole(grid, console=console, make_workbench=lambda grid: bench.at(grid.store))
    return code, stream.getvalue()


def records(arguments: list[str]) -> dict[str, CellRecord]:
    grid = expand(arguments)
    return {cell.label: cell_record(grid.store, describe(cell, grid.cells)) for cell in grid.cells}


def state(record: CellRecord) -> str | None:
    status = record.status()
    return None if status is None else status.state


@pytest.fixture
def arguments(overrides: list[str]) -> list[str]:
    return [*overrides, "tracking=none", "task=aesthetic"]


def test_a_grid_runs_once_and_prints_the_same_table_again(arguments: list[str]) -> None:
    bench, arguments = FakeWorkbench(), [*arguments, "figure_formats=[png]"]
    code, first = go(arguments, bench)
    assert code == 0
    assert bench.calls[0] == "prepare 4"
    assert sum(call.startswith("train ") for call in bench.calls) == 3
    for title in ("SFT", "SOAR", "Flow-GRPO", "Base"):
        assert title in first
    grid = expand(arguments)
    results = Path(grid.settings.results_dir) / "reward_specific"
    for name in ("table.md", "table.csv", "curves.png", "bars.png", "summary.json"):
        assert (results / name).stat().st_size > 0

    def never(_grid: object) -> FakeWorkbench:
        raise AssertionError("nothing is left to do")

    stream = io.StringIO()
    again = run_whole(grid, console=Console(file=stream, width=160), make_workbench=never)
    assert again == 0
    table = stream.getvalue()
    assert table in first
    # A reader's next step, and no page to be searched for.
    kept = [word for word in arguments if word.startswith(("output_dir=", "tracking"))]
    look = " ".join(["python -m soarbench ui", *kept])
    page = f"open {results / 'index.html'}"
    tracked = grid.settings.tracking.enabled
    assert first.splitlines()[-1] == (f"{page}; in MLflow: {look}" if tracked else page)


def test_a_narrower_run_trains_what_changed_and_keeps_the_report_whole(
    arguments: list[str],
) -> None:
    go(arguments, FakeWorkbench())
    bench, words = FakeWorkbench(), [*arguments, "method=soar", "method.aux_weight=0.5"]
    assert go(words, bench)[0] == 0
    assert [call for call in bench.calls if call.startswith("train")] == [
        "train soar aesthetic seed 0"
    ]
    changed = expand(words)
    results = Path(changed.settings.results_dir)
    (task,) = read_json(results / "reward_specific" / "summary.json")["tasks"]
    ids = {name: method["cell_ids"] for name, method in task["methods"].items()}
    assert list(ids) == ["base", "sft", "soar", "flow_grpo"]
    assert ids["soar"] == [addresses.cell_id(changed.cells[-1])]
    # With another budget the others are none of its cells, and what they came to is not replaced.
    shorter = expand([*words, "budget.steps=4"])
    assert with_recorded(shorter) is shorter
    assert report_folder(cells_of(shorter)).parent == results
    assert report_folder(cells_of(shorter)).name.startswith("reward_specific-")
    # Nor are those whose images were others.
    more = expand([*words, "budget.max_prompts=2"])
    assert with_recorded(more) is more
    seeded = with_recorded(expand([*words, "seeds=[1]"]))
    assert {cell.label for cell in seeded.cells} == {
        "base", *(f"{name} aesthetic seed 0" for name in ("sft", "soar", "flow_grpo")),
        "soar aesthetic seed 1",
    }  # fmt: skip
    assert report_folder(cells_of(seeded)) == results / "reward_specific"
    # What has not run yet shows nothing.
    empty = expand([*arguments, f"output_dir={results / 'empty'}"])
    assert report_folder(cells_of(empty)).name.startswith("reward_specific-")
    # Who asks for a part of a report gets it, beside the whole one.
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    part_words = [*arguments, "method=sft"]
    assert report(*read(ReportOptions, part_words), console=console) == 0
    part = report_folder(cells_of(expand(part_words)))
    assert f"this report is in {part}" in stream.getvalue()
    assert (part / "index.html").is_file()


def test_a_failing_cell_leaves_a_hole_and_the_others_go_on(arguments: list[str]) -> None:
    code, text = go(arguments, FakeWorkbench(broken="soar aesthetic seed 0"))
    assert code == 1
    assert state(records(arguments)["flow_grpo aesthetic seed 0"]) == "finished"
    failed = records(arguments)["soar aesthetic seed 0"]
    status = failed.status()
    assert status is not None
    assert status.state == "failed"
    assert status.reason is not None
    assert "RuntimeError: reward 'x' returned 3 values for 4 images" in status.reason
    assert "Traceback" in failed.error_path.read_text()
    assert "FAILED soar-aesthetic-seed0" in text
    assert "returned 3 values for 4 images" in text
    summary = read_json(
        Path(expand(arguments).settings.results_dir) / "reward_specific" / "summary.json"
    )
    assert summary["partial"] is True

    code, text = go(arguments, FakeWorkbench())
    assert code == 0
    assert "FAILED" not in text


def test_when_every_cell_fails_the_reasons_are_printed(arguments: list[str]) -> None:
    only = [*arguments, "method=soar"]
    bench = FakeWorkbench(broken="soar aesthetic seed 0")
    bench.judge.score = None  # type: ignore[assignment, method-assign]
    code, text = go(only, bench)
    assert code == 1
    assert text.count("FAILED") == 2


def test_finished_cells_are_measured_once_and_in_the_same_command(arguments: list[str]) -> None:
    bench = FakeWorkbench()
    go(arguments, bench)
    probed = [call for call in bench.calls if call.startswith("probe")]
    assert probed == [
        "probe base on aesthetic",
        "probe sft aesthetic seed 0 on aesthetic",
        "probe soar aesthetic seed 0 on aesthetic",
        "probe flow_grpo aesthetic seed 0 on aesthetic",
    ]
    assert bench.calls.index(probed[0]) > bench.calls.index("train flow_grpo aesthetic seed 0")
    grid = expand(arguments)
    jobs = grid_jobs(grid.cells, diagnostics=True)
    assert all(job.is_done(grid.store) for job in jobs)
    (paths,) = [
        job for job in jobs if job.kind == "paths" and job.cell.label == "sft aesthetic seed 0"
    ]
    ProbeFolder(grid.store.artefact(paths.address).root).path("norms").unlink()
    again = FakeWorkbench()
    assert go(arguments, again)[0] == 0
    assert again.calls == ["prepare 1", "probe sft aesthetic seed 0 on aesthetic"]


def test_diagnostics_can_be_left_out_and_change_no_address(arguments: list[str]) -> None:
    bench = FakeWorkbench()
    assert go([*arguments, "diagnostics=false"], bench)[0] == 0
    assert not any(call.startswith("probe") for call in bench.calls)
    grid = expand([*arguments, "diagnostics=false"])
    assert not (grid.store.root / "probes").exists()
    ids = [addresses.cell_id(cell) for cell in grid.cells]
    assert ids == [addresses.cell_id(cell) for cell in expand(arguments).cells]


def test_what_cannot_be_measured_is_said_after_the_report(arguments: list[str]) -> None:
    code, text = go(arguments, FakeWorkbench(unprobed="soar aesthetic seed 0"))
    assert code == 1
    assert "NOT MEASURED soar-aesthetic-seed0" in text
    assert "RuntimeError: out of memory" in text
    assert {state(record) for record in records(arguments).values()} == {"finished"}
    assert (Path(expand(arguments).settings.results_dir) / "reward_specific" / "table.md").is_file()
    again = FakeWorkbench()
    assert go(arguments, again)[0] == 0
    assert again.calls == ["prepare 1", "probe soar aesthetic seed 0 on aesthetic"]


def test_what_cannot_be_prepared_stops_the_run_before_training(arguments: list[str]) -> None:
    bench = FakeWorkbench(refuse="training prompt 'a' is also in the evaluation suite")
    with pytest.raises(UserError, match="is also in the evaluation suite"):
        go(arguments, bench)
    assert bench.calls == ["prepare 4"]


@pytest.mark.slow
def test_kill_9_at_any_moment_then_the_same_command_gives_the_same_numbers(
    arguments: list[str], tmp_path: Path
) -> None:
    go(arguments, FakeWorkbench())
    expected = numbers(expand(arguments).store.root)
    killed = [*arguments, f"output_dir={tmp_path / 'killed'}"]
    root = expand(killed).store.root
    for seconds in (0.3, 0.9, 1.5):
        process = start(killed, delay=0.05)
        wait_for(root / "grids", process)
        time.sleep(seconds)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    process = start(killed, delay=0.0)
    assert process.wait(timeout=600) == 0
    assert numbers(root) == expected


@pytest.mark.slow
def test_two_processes_cannot_share_a_run_directory(arguments: list[str]) -> None:
    process = start(arguments, delay=0.5)
    folder = expand(arguments).folder
    wait_for(folder / ".lock", process)
    wait_for(folder.parents[1] / "images", process)
    with pytest.raises(UserError, match=f"is in use by process {process.pid}; wait for it"):
        go(arguments, FakeWorkbench())
    process.kill()
    process.wait()
    assert (folder / ".lock").read_text() == str(process.pid)
    assert go(arguments, FakeWorkbench())[0] == 0


def start(arguments: list[str], delay: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(delay), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_interruption_closes_the_launch_and_goes_through(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = FakeWorkbench()

    def interrupted(*_args: object) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(arguments, bench)
    states = [state(record) for record in records(arguments).values()]
    assert states == ["finished", "running", "running", "running"]


def test_dry_run_touches_nothing_and_tells_what_is_left(arguments: list[str]) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    assert run(arguments, is_dry=True, as_json=False, console=console) == 0
    text = stream.getvalue()
    grid = expand(arguments)
    assert not grid.store.root.exists()
    for cell in grid.cells:
        assert addresses.cell_id(cell) in text
    assert text.count("to do") == 4
    assert "estimates from rates measured on" in text
    assert "count no seconds" not in text
    unrated = dataclasses.replace(grid.settings.budget.rates, seconds_per_step={"soar": 1.0})
    assert len(unrated_lines(grid.cells, unrated)) == 2  # of SFT and Flow-GRPO
    go(arguments, FakeWorkbench())
    stream.truncate(0)
    console.print(dry_table(grid))
    assert stream.getvalue().count("finished") == 4
    assert stream.getvalue().count("0:00:00") == 7


def test_report_needs_a_finished_cell_and_says_whether_all_are(arguments: list[str]) -> None:
    console = Console(file=io.StringIO(), width=160)
    with pytest.raises(UserError, match="holds no finished cell"):
        report(*read(ReportOptions, arguments), console=console)
    go([*arguments, "method=sft"], FakeWorkbench())
    sft = [*arguments, "method=sft"]
    assert report(*read(ReportOptions, sft), console=console) == 0
    assert report(*read(ReportOptions, arguments), console=console) == 1


def test_an_unwritable_output_directory_is_named(arguments: list[str], tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    for key in ("output_dir", "results_dir"):
        with pytest.raises(UserError, match=f"{key}=.* cannot be written to .*choose another"):
            go([*arguments, f"{key}={blocker / 'below'}"], FakeWorkbench())


def test_a_lock_is_free_again_when_its_holder_is_done(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, lambda partial: partial.write_text("{}"))

    def broken(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, broken)
    assert json.loads(path.read_text()) == {}


def test_a_state_that_is_damaged_twice_is_set_aside(tmp_path: Path) -> None:
    record = CellRecord(tmp_path)
    record.update_status(state="finished")
    for path in tmp_path.iterdir():
        path.write_text("{")
    with pytest.raises(UserError, match=r"status\.json.* is damaged .* makes it again"):
        record.status()
    (line,) = set_damaged_aside([], Store(tmp_path), [tmp_path])
    assert line.endswith(f"set aside as {tmp_path / 'status.json.damaged-1'}")
    assert record.status() is None


def test_what_the_report_finds_damaged_is_made_again_by_the_same_run(arguments: list[str]) -> None:
    words = [*arguments, "method=sft", "diagnostics=false", "figure_formats=[png]"]
    go(words, FakeWorkbench())
    grid = expand(words)
    before = numbers(grid.store.root)
    (cell,) = (cell for cell in grid.cells if cell.method_name == "sft")
    suite = next(iter(cell.suites.values()))
    drawn = grid.store.artefact(addresses.images(cell, cell.steps[-1], suite).address).root
    pictures = {path: path.read_bytes() for path in drawn.rglob("*.png")}
    # By its ends a whole table, of another step; and no job of a finished grid reads images.
    scored = addresses.scores(cell, cell.steps[0], suite, suite.judges[0]).address
    (grid.store.artefact(scored).root / "rows.parquet").write_bytes(b"PAR1 junk PAR1")
    for path in pictures:
        path.write_bytes(b"junk")
    code, text = go(words, FakeWorkbench())
    assert code == 0
    assert "rows.parquet is damaged" in text
    assert "the command of the run draws it again" in text
    assert numbers(grid.store.root) == before
    assert {path: path.read_bytes() for path in pictures} == pictures


def test_make_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    make_writable(tmp_path / "new", "output_dir")
    assert list((tmp_path / "new").iterdir()) == []
    require_writable(tmp_path / "other" / "below", "output_dir")
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"results_dir=.*file/below cannot be written to"):
        require_writable(tmp_path / "file" / "below", "results_dir")


def test_what_killed_runs_were_writing_is_taken_away(arguments: list[str], tmp_path: Path) -> None:
    words = [*arguments, f"output_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]
    (tmp_path / "runs").mkdir()
    grid = expand(words)
    jobs = grid_jobs(grid.cells, diagnostics=True)
    probe = next(job.address for job in jobs if job.kind == "paths")
    files = (
        "runs/grids/reward_specific/live.json", "runs/cache/prompts/p/x.safetensors",
        "results/reward_specific/table.csv", f"runs/{probe}/norms.parquet",
    )  # fmt: skip
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    host = re.sub(r"\W", "_", socket.gethostname())

    def partials(process: int) -> list[Path]:
        ends = f"{host}-{process}-99999.partial"
        return [(tmp_path / name).with_name(f".{Path(name).name}.{ends}") for name in files]

    for path in [*partials(dead.pid), *partials(os.getpid())]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert go(words, FakeWorkbench())[0] == 0
    assert not any(path.exists() for path in partials(dead.pid))
    assert all(path.exists() for path in partials(os.getpid()))
