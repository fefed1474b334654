"""Measuring finished cells: what is left, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from soarbench.cli.run import run_plan
from soarbench.common.errors import UserError
from soarbench.diagnostics.image_statistics import STATISTICS, diversity, pixels_of
from soarbench.grid.expand import expand
from soarbench.jobs.image_table import groups
from soarbench.jobs.probe import diagnose, left_to_measure, probe_jobs
from soarbench.store.cell_folder import CellFolder
from soarbench.store.diagnostics import deviations_path, images_path, norms_path, source_key
from tests.fakes import FakeBench


@pytest.fixture
def arguments(overrides: list[str]) -> list[str]:
    return [*overrides, "tracking=none", "budget.images_per_prompt=2", "diagnostics=false"]


def ran(arguments: list[str]) -> None:
    console = Console(file=io.StringIO(), width=160)
    bench = FakeBench()
    assert run_plan(expand(arguments), console=console, make_bench=lambda _: bench) == 0


def measured(arguments: list[str], bench: FakeBench | None = None) -> tuple[int, str, FakeBench]:
    stream = io.StringIO()
    used = bench or FakeBench()
    console = Console(file=stream, width=160)
    code = diagnose(arguments, console=console, make_prober=lambda _: used)
    return code, stream.getvalue(), used


def test_the_base_is_followed_on_every_task_and_the_others_on_their_own(
    arguments: list[str],
) -> None:
    plan = expand([*arguments, "seeds=[0,1]"])
    jobs = [(cell.label, source.label) for cell, source in probe_jobs(plan.cells)]
    assert len(jobs) == 2 * 3 * 2 + 2
    assert ("base", "sft aesthetic seed 0") in jobs
    assert ("base", "sft alignment seed 0") in jobs
    assert all(cell == source for cell, source in jobs if cell != "base")
    left = left_to_measure(plan, plan.cells)
    assert (len(left.cells), len(left.jobs)) == (13, 14)
    assert len(left.seconds) == 27
    assert min(left.seconds.values()) > 0


def test_every_image_is_measured_as_its_statistics_say(arguments: list[str]) -> None:
    only = [*arguments, "task=aesthetic", "method=sft"]
    ran(only)
    assert measured(only)[0] == 0
    plan = expand(only)
    cell = plan.cells[1]
    folder = CellFolder(plan.cell_folder(cell))
    rows = pq.read_table(images_path(folder.root)).to_pylist()
    assert len(rows) == 2 * 3 * 2
    assert {row["step"] for row in rows} == {3, 6}
    for row in rows:
        paths = [folder.image(row["step"], row["prompt_id"], index) for index in (0, 1)]
        images = [Image.open(path) for path in paths]
        pixels = pixels_of(images[row["image_index"]])
        for name, measure in STATISTICS.items():
            assert row[name] == measure(pixels)
        assert row["diversity"] == diversity(images)


def test_groups_hold_every_planned_image_once(arguments: list[str]) -> None:
    base = expand(arguments).cells[0]
    found = groups(base)
    assert {group.suite for group in found} == {"lab_drawbench", "lab_geneval"}
    assert all(group.indices == (0, 1) for group in found)
    assert len({(group.step, group.prompt_id) for group in found}) == len(found) == 6


def test_what_was_measured_is_not_measured_again(arguments: list[str]) -> None:
    only = [*arguments, "task=aesthetic"]
    ran(only)
    _, text, first = measured(only)
    assert "measured 4 of 4 cells" in text
    assert len(first.calls) == 4
    plan = expand(only)
    tables = [images_path(plan.cell_folder(cell)) for cell in plan.cells]
    before = [path.stat().st_mtime_ns for path in tables]
    assert measured(only)[2].calls == []
    assert [path.stat().st_mtime_ns for path in tables] == before


def test_the_base_is_followed_again_on_other_data_of_the_same_task(arguments: list[str]) -> None:
    only = [*arguments, "task=aesthetic", "method=sft"]
    ran(only)
    measured(only)
    other = [*only, "data.keep_fraction=0.5"]
    ran(other)
    calls = ["probe base on aesthetic", "probe sft aesthetic seed 0 on aesthetic"]
    assert sorted(measured(other)[2].calls) == calls
    assert measured(only)[2].calls == []
    base = expand(other).cells[0]
    assert expand(only).cells[0].cell_id == base.cell_id


def test_a_killed_measurement_leaves_nothing_that_counts(arguments: list[str]) -> None:
    only = [*arguments, "task=aesthetic", "method=sft"]
    ran(only)
    plan = expand(only)
    root = plan.cell_folder(plan.cells[1])
    # Norms are written last: deviations alone are those of a killed process.
    measured(only)
    key = source_key(plan.cells[1])
    norms_path(root, key).unlink()
    assert deviations_path(root, key).is_file()
    assert measured(only)[2].calls == ["probe sft aesthetic seed 0 on aesthetic"]


def test_one_that_fails_leaves_the_others_measured(arguments: list[str]) -> None:
    only = [*arguments, "task=aesthetic"]
    ran(only)
    code, text, _ = measured(only, FakeBench(unprobed="base"))
    assert code == 1
    assert "NOT MEASURED base-seed0" in text
    assert "measured 3 of 4 cells" in text
    assert measured(only)[2].calls == ["probe base on aesthetic"]


def test_unfinished_cells_are_passed_over_and_counted(arguments: list[str]) -> None:
    only = [*arguments, "task=aesthetic"]
    ran(only)
    plan = expand(only)
    CellFolder(plan.cell_folder(plan.cells[-1])).update_status(state="running")
    code, text, _ = measured(only)
    assert code == 1
    assert "measured 3 of 4 cells" in text


def test_without_a_finished_cell_there_is_one_line(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="no finished cell of this grid; run 'python -m soarbench"):
        measured(arguments)


@pytest.mark.slow
def test_real_models_are_followed_along_images_they_were_not_trained_on(tmp_path: Path) -> None:
    from soarbench.data.config import LabDataConfig
    from soarbench.diagnostics.probes import NUM_PROBES, STARTS, held_out_data
    from soarbench.jobs.workbench import Workbench
    from tests.tiny import build_tiny_pipeline

    arguments = [
        "grid=reward_specific", "grid.tasks=[aesthetic]", "method=sft", "tracking=none",
        f"model.path={build_tiny_pipeline(tmp_path / 'tiny')}", f"output_dir={tmp_path / 'runs'}",
        f"results_dir={tmp_path / 'results'}", "device=cpu", "budget.steps=2",
        "budget.num_snapshots=1", "budget.save_steps=2", "budget.max_prompts=1",
        "budget.images_per_prompt=1", "sampling.batch_size=5", "sampling.num_inference_steps=4",
        "training.batch_size=4", "data.num_candidates=40", "data.select_by=[oracle_aesthetic]",
        "suites.drawbench.judges=[oracle_aesthetic]", "task.final_metric=oracle_aesthetic",
        "reward=tests.rewards.brightness",
    ]  # fmt: skip
    plan = expand(arguments)
    bench = Workbench("cpu", plan.folder / "data")
    console = Console(file=io.StringIO(), width=160)
    assert run_plan(plan, console=console, make_bench=lambda _: bench) == 0
    trained = plan.cells[1]
    held_out = held_out_data(trained).data
    assert isinstance(held_out, LabDataConfig)
    assert isinstance(trained.data, LabDataConfig)
    assert held_out.seed != trained.data.seed
    assert dataclasses.replace(held_out, seed=0, num_candidates=1000) == dataclasses.replace(
        trained.data, seed=0, num_candidates=1000
    )
    count = min(round(held_out.num_candidates * held_out.keep_fraction), NUM_PROBES)
    for cell in plan.cells:
        root = plan.cell_folder(cell)
        rows = pq.read_table(deviations_path(root, source_key(trained))).to_pylist()
        assert {row["row"] for row in rows} == set(range(count))
        assert {row["start"] for row in rows} == set(STARTS)
        assert {row["step"] for row in rows} == {cell.steps[-1]}
        assert all((row["deviation"] == 0) == (row["index"] == 0) for row in rows)
        norms = pq.read_table(norms_path(root, source_key(trained))).to_pylist()
        assert {row["step"] for row in norms} == set(cell.steps)
        assert all(row["norm"] > 0 for row in norms)
