"""Measures of diversity in a grid: what is measured, where it goes, and what asks for none."""

import io
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from soarbench.cli.run import run_whole
from soarbench.common.errors import ConfigError
from soarbench.config.compose import apply
from soarbench.config.overrides import parse_overrides
from soarbench.grid import addresses
from soarbench.grid.description import describe
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.delivery import CellLog
from soarbench.jobs.diversity import Diversity
from soarbench.jobs.graph import grid_jobs
from soarbench.store.tables import ProbeFolder
from tests.fakes import FakeWorkbench


@pytest.fixture
def arguments(overrides: list[str]) -> list[str]:
    return [*overrides, "task=aesthetic", "method=sft", "tracking=none"]


def go(arguments: list[str]) -> Grid:
    grid, bench = expand(arguments), FakeWorkbench()
    console = Console(file=io.StringIO(), width=160)
    assert run_whole(grid, console=console, make_workbench=lambda _: bench.at(grid.store)) == 0
    return grid


def jobs_of(arguments: list[str]) -> list[Diversity]:
    jobs = grid_jobs(expand(arguments).cells, diagnostics=True)
    return [job for job in jobs if isinstance(job, Diversity)]


def test_every_prompt_is_measured_and_stands_beside_its_images(arguments: list[str]) -> None:
    grid = go([*arguments, "budget.images_per_prompt=2"])
    cell = next(cell for cell in grid.cells if cell.method_name == "sft")
    log = CellLog(store=grid.store, description=describe(cell, grid.cells))
    table = log.cell().statistics()
    assert table is not None
    # Of two images each, as the fake measures; RMS and statistics stay beside it.
    assert set(table["vendi"].to_pylist()) == {1.2}
    assert {"diversity", "entropy"} <= set(table.column_names)
    assert table.num_rows == 2 * 3 * len(cell.steps)
    (suite,) = cell.suites.values()
    source = addresses.diversity(cell, cell.steps[0], suite, "vendi")
    path = ProbeFolder(grid.store.artefact(source.address).root).path("diversity")
    assert pq.read_table(path).num_rows == 3
    # What is missing is measured again, and until then the cell counts as not measured.
    path.unlink()
    assert log.cell().statistics() is None
    go([*arguments, "budget.images_per_prompt=2"])
    assert path.is_file()


def test_one_image_a_prompt_or_no_weights_asks_for_nothing(arguments: list[str]) -> None:
    several = [*arguments, "budget.images_per_prompt=2"]
    assert jobs_of(several)
    assert not jobs_of([*arguments, "budget.images_per_prompt=1"])
    assert not jobs_of([*several, "diversity.vendi.weights=null"])
    # Then a cell is described as it was before there were such measures.
    grid = expand([*several, "diversity.vendi.weights=null"])
    plain = describe(grid.cells[0], grid.cells)
    assert "diversity" not in str(plain["suites"])


def test_other_weights_have_another_address_and_nothing_else_moves(
    arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"other")
    several = [*arguments, "budget.images_per_prompt=2"]
    other = [*several, f"diversity.vendi.weights={tmp_path / 'clip'}"]
    kinds = [
        {(job.kind, job.address) for job in grid_jobs(expand(words).cells, diagnostics=True)}
        for words in (several, other)
    ]
    assert {kind for kind, _ in kinds[0] - kinds[1]} == {"diversity"}
    placed = [*several, "diversity.vendi.device=cpu", "diversity.vendi.batch_size=1"]
    assert [job.address for job in jobs_of(placed)] == [job.address for job in jobs_of(several)]


def test_a_gpu_is_asked_for_unless_the_measure_does_without(arguments: list[str]) -> None:
    job = jobs_of([*arguments, "budget.images_per_prompt=2"])[0]
    assert job.needs().gpus == 1
    on_cpu = {"vendi": replace(job.config, device="cpu")}
    assert replace(job, cell=replace(job.cell, diversity=on_cpu)).needs().gpus == 0


def test_half_of_lpips_is_refused_before_anything_runs() -> None:
    words = parse_overrides(["model=sd35_medium", "diversity.lpips.weights=alexnet.pth"])
    composition = words.composed()
    apply(words.values, [composition])
    with pytest.raises(ConfigError, match="LPIPS needs both files"):
        composition.settings()
