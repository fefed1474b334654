"""Snapshots at other methods' cost: planned, drawn, and made again where another grid left none."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from baselines.loop.checkpoints import MANIFEST, snapshot_manifest
from baselines.loop.disk import write_manifest
from soarbench.cli.dry_run import dry_table
from soarbench.cli.run import run_whole
from soarbench.common.errors import UserError
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import expand
from soarbench.jobs.graph import grid_jobs
from soarbench.jobs.snapshots import refuse_repetition
from soarbench.jobs.train import Train, trained_folder
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.store.training import TrainingFolder
from tests.fakes import FakeWorkbench, numbers

SHARES = "budget.cost_shares=[1.0]"


class ElsewhereWorkbench(FakeWorkbench):
    """Another machine, which rounds differently."""

    def _start(self, cell: CellConfig) -> str:
        return f"{super()._start(cell)} elsewhere"


@pytest.fixture
def arguments(overrides: list[str]) -> list[str]:
    words = ["tracking=none", "task=aesthetic", "method=[sft,soar]", "diagnostics=false"]
    return [*overrides, *words]


def go(arguments: Sequence[str], bench: FakeWorkbench | None = None) -> tuple[list[str], str]:
    """Run a grid; what the workbench was asked, and what was printed."""
    bench, stream = bench or FakeWorkbench(), io.StringIO()
    console = Console(file=stream, width=200)
    run_whole(expand(arguments), console=console, make_workbench=lambda grid: bench.at(grid.store))
    return [call for call in bench.calls if not call.startswith("prepare")], stream.getvalue()


def plan(arguments: Sequence[str]) -> str:
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(dry_table(expand(arguments)))
    return " ".join(console.export_text().split())


def soar_folder(arguments: Sequence[str]) -> TrainingFolder:
    grid = expand(arguments)
    (cell,) = [cell for cell in grid.cells if cell.method_name == "soar"]
    return trained_folder(grid.store, cell)


def content(folder: TrainingFolder) -> dict[str, bytes]:
    """Every file of a training but for what tells who was there."""
    names = ("artefact.json", ".artefact.json.copy", "owner.json", "error.txt", ".lock")
    return {
        str(path.relative_to(folder.root)): path.read_bytes()
        for path in folder.root.rglob("*")
        if path.is_file() and path.name not in names
    }


def test_snapshots_at_equal_cost_are_planned_and_drawn(arguments: list[str]) -> None:
    text = plan([*arguments, SHARES])
    assert "soar (aesthetic) at step 1 (704 of 576), step 4 (2,816 of 3,072)" in text
    assert "at equal cost" not in plan(arguments)
    calls, _ = go([*arguments, SHARES])
    drawn = [call for call in calls if call.startswith("load soar")]
    assert drawn == [f"load soar aesthetic seed 0 step {step}" for step in (1, 3, 4, 6)]
    assert not [call for call in calls if "sft" in call and "step 1" in call]


def test_a_training_that_is_over_is_repeated_for_a_snapshot_that_it_lacks(
    arguments: list[str], tmp_path: Path
) -> None:
    go(arguments)
    assert "trained again" not in plan(arguments)
    text = plan([*arguments, SHARES])
    assert (
        "soar aesthetic seed 0 is trained again: it is over, and has no snapshot of step 1, 4"
    ) in text
    assert "sft aesthetic seed 0 is trained again" not in text
    calls, printed = go([*arguments, SHARES])
    assert "FAILED" not in printed
    # What was drawn stays; the base and SFT lack nothing.
    assert calls == [
        "train soar aesthetic seed 0",
        "load soar aesthetic seed 0 step 1",
        "load soar aesthetic seed 0 step 4",
    ]
    assert go([*arguments, SHARES])[0] == []
    assert go(arguments)[0] == []
    straight = [*arguments, SHARES, f"output_dir={tmp_path / 'straight'}"]
    go(straight)
    assert content(soar_folder(arguments)) == content(soar_folder(straight))
    assert numbers(expand(arguments).store.root) == numbers(expand(straight).store.root)


def test_a_repetition_from_another_checkout_comes_to_the_same_weights(
    arguments: list[str],
) -> None:
    go(arguments)
    last = soar_folder(arguments).snapshot(6)
    (last / "config.json").write_text('{"_name_or_path": "/another/checkout"}')
    write_manifest(last, snapshot_manifest(last))
    _, printed = go([*arguments, SHARES])
    assert "FAILED" not in printed
    assert soar_folder(arguments).fault([1, 3, 4, 6]) is None


@pytest.mark.parametrize("stop_after", [0, 3, 5])
def test_a_repetition_that_comes_to_other_weights_leaves_what_was_there(
    arguments: list[str], stop_after: int
) -> None:
    go(arguments)
    before = content(soar_folder(arguments))
    bench = ElsewhereWorkbench()
    if stop_after:
        bench.stop_after = stop_after
        with pytest.raises(KeyboardInterrupt):
            go([*arguments, SHARES], bench)
        bench = ElsewhereWorkbench()
    _, printed = go([*arguments, SHARES], bench)
    assert "FAILED soar-aesthetic-seed0" in printed
    assert "came to other weights than the first time" in printed
    assert "budget.cost_shares=[] budget.costs=[]" in printed
    assert content(soar_folder(arguments)) == before
    # The grid that it was trained for is as finished as it was.
    calls, printed = go(arguments)
    assert (calls, "FAILED" in printed) == ([], False)


@pytest.mark.parametrize("bench", [FakeWorkbench, ElsewhereWorkbench])
def test_a_kill_while_what_was_before_goes_leaves_none_of_it(
    arguments: list[str], bench: type[FakeWorkbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    go(arguments)
    before = content(soar_folder(arguments))
    remove = shutil.rmtree

    def killed(path: Path, *words: object, **more: Any) -> None:
        manifest = Path(path) / MANIFEST
        if "before" in Path(path).name and manifest.is_file():
            # Gone, and the rest is not.
            manifest.unlink()
            raise KeyboardInterrupt
        remove(path, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            go([*arguments, SHARES], bench())
    _, printed = go([*arguments, SHARES], bench())
    is_alike = bench is FakeWorkbench
    assert ("FAILED" not in printed, "came to other weights" not in printed) == (is_alike, is_alike)
    after = content(soar_folder(arguments))
    assert {name: after[name] for name in before if "manifest" not in name} == {
        name: before[name] for name in before if "manifest" not in name
    }
    assert not (soar_folder(arguments).root / "before").exists()


def test_no_gpu_repeats_a_training_whose_weights_it_would_hardly_meet_again(
    arguments: list[str],
) -> None:
    go(arguments)
    before = content(soar_folder(arguments))
    grid = expand([*arguments, SHARES])
    jobs = grid_jobs(grid.cells, diagnostics=False)
    bench = ModelWorkbench("cpu", grid.store)
    # Named only: it is refused before anything asks which GPU that is.
    bench.device = torch.device("cuda")
    with pytest.raises(UserError, match=r"soar aesthetic seed 0 is over, .* step 1, 4; .*_shares"):
        bench.prepare(jobs)
    assert content(soar_folder(arguments)) == before
    # What is as it was planned is not repeated, and what gives the same bits may be.
    refuse_repetition(grid_jobs(expand(arguments).cells, diagnostics=False), grid.store)
    exact = [*arguments, "training.deterministic=true"]
    go(exact)
    jobs = grid_jobs(expand([*exact, SHARES]).cells, diagnostics=False)
    assert [job.lacking(grid.store) for job in jobs if isinstance(job, Train)] == [[], [1, 4]]
    refuse_repetition(jobs, grid.store)


def test_without_a_last_snapshot_to_compare_with_a_training_is_repeated_all_the_same(
    arguments: list[str],
) -> None:
    go(arguments)
    folder = soar_folder(arguments)
    shutil.rmtree(folder.snapshot(6))
    calls, printed = go([*arguments, SHARES])
    assert "FAILED" not in printed
    assert calls[0] == "train soar aesthetic seed 0"
    assert folder.snapshot(6).is_dir()


def test_a_removed_snapshot_that_more_images_need_is_in_the_plan(arguments: list[str]) -> None:
    arguments = [*arguments, "store.keep_snapshots=last", SHARES]
    go(arguments)
    folder = soar_folder(arguments)
    assert [path.name for path in folder.root.glob("snapshots/step-*") if path.is_dir()] == [
        "step-000006"
    ]
    assert "trained again" not in plan(arguments)
    more = [*arguments, "budget.images_per_prompt=2"]
    assert "soar aesthetic seed 0 is trained again" in plan(more)
    calls, printed = go(more)
    assert "FAILED" not in printed
    assert [call for call in calls if call.startswith("train")] == [
        "train sft aesthetic seed 0", "train soar aesthetic seed 0",
    ]  # fmt: skip
    grid = expand(more)
    assert all(job.is_done(grid.store) for job in grid_jobs(grid.cells, diagnostics=False))


def test_a_removed_snapshot_that_another_task_needs_is_in_the_plan(overrides: list[str]) -> None:
    # Both tasks train on the same rows, and so share the training; their suites differ.
    words = [*overrides, "tracking=none", "diagnostics=false", "method=[sft]", "data=lab_general"]
    words = [word for word in words if not word.startswith(("data.num", "data.select"))]
    words.append("store.keep_snapshots=last")
    go([*words, "task=aesthetic"])
    assert "trained again" not in plan([*words, "task=aesthetic"])
    assert "sft aesthetic seed 0 is trained again" in plan(words)
    grid = expand(words)
    with pytest.raises(UserError, match=r"sft aesthetic seed 0 is over, .* step 3"):
        refuse_repetition(grid_jobs(grid.cells, diagnostics=False), grid.store)


def kept(folder: TrainingFolder) -> dict[str, bytes]:
    """The log and the weights, without notes about those that were removed."""
    files = content(folder)
    return {
        name: data for name, data in files.items() if not name.startswith("snapshots/step-000003")
    }


def test_weights_that_were_removed_are_not_mixed_with_those_of_another_training(
    arguments: list[str],
) -> None:
    go([*arguments, "store.keep_snapshots=last"])
    before = kept(soar_folder(arguments))
    words = [word for word in arguments if word != "diagnostics=false"]
    grid = expand(words)
    # Their own weights are all that these need; a GPU says so before it trains.
    jobs = [job for job in grid_jobs(grid.cells, diagnostics=True) if not job.is_done(grid.store)]
    with pytest.raises(
        UserError, match=r"(sft|soar) .* no whole snapshot of step 3; .*diagnostics"
    ):
        refuse_repetition(jobs, grid.store)
    _, printed = go(words, ElsewhereWorkbench())
    assert "soar aesthetic seed 0 was trained again for snapshots that it lacked" in printed
    assert kept(soar_folder(arguments)) == before
    calls, printed = go(words)
    assert "FAILED" not in printed
    assert calls.count("train soar aesthetic seed 0") == 1
    assert soar_folder(arguments).fault([3, 6]) is None
