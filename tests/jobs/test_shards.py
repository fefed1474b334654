"""Shards of drawing and judging: together they make what one job makes, in any order."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from soarbench.common.errors import Damaged
from soarbench.common.progress import GridProgress
from soarbench.evaluation import judging
from soarbench.evaluation.selection import num_images
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import Context, Job, Shard, SuiteJob, extent_of
from soarbench.jobs.draw import Draw
from soarbench.jobs.graph import grid_jobs, sharded
from soarbench.jobs.judge import Judge
from soarbench.jobs.log import Log
from soarbench.jobs.repair import run_repaired
from soarbench.store.artefact import Store
from soarbench.store.judged import ScoresFolder
from soarbench.tracking.tracker import NoTracker
from tests.fakes import FakeWorkbench

COUNT = 3


@pytest.fixture
def grid(overrides: list[str]) -> Grid:
    return expand([*overrides, "tracking=none", "task=aesthetic", "budget.max_prompts=7"])


def base_jobs(grid: Grid) -> tuple[Draw, Judge]:
    jobs = grid_jobs(grid.cells, diagnostics=False)
    draw = next(job for job in jobs if isinstance(job, Draw) and job.cell.training is None)
    judges = (job for job in jobs if isinstance(job, Judge) and job.suite == draw.suite)
    return draw, next(job for job in judges if job.cell.training is None)


def run(jobs: Sequence[Job], store: Store) -> None:
    for job in jobs:
        progress = GridProgress(Console(file=io.StringIO()), {})
        bench = FakeWorkbench().at(store)
        job.run(Context(store=store, workbench=bench, tracker=NoTracker(), progress=progress))


def shards(job: SuiteJob) -> list[SuiteJob]:
    return [replace(job, shard=Shard(index=i, count=COUNT)) for i in range(COUNT)]


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.png"))}


@pytest.mark.parametrize("order", list(itertools.permutations(range(COUNT)))[::2])
def test_shards_make_what_one_job_makes(
    order: tuple[int, ...], grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seven images: as judges take 32 at a time, there would be one chunk.
    monkeypatch.setattr("soarbench.evaluation.judging.CHUNK", 2)
    draw, judge = base_jobs(grid)
    straight, cut = Store(tmp_path / "straight"), Store(tmp_path / "cut")
    run([draw, judge], straight)
    for job in (draw, judge):
        parts = [shards(job)[index] for index in order]
        for part in parts[:-1]:
            run([part], cut)
            # The part is noted when the last shard ends, whichever that is.
            assert not part.is_done(cut)
        run(parts[-1:], cut)
        assert job.is_done(cut)
    roots = [store.artefact(draw.address).root for store in (straight, cut)]
    assert content(roots[0]) == content(roots[1]) != {}
    folders = [ScoresFolder(store.artefact(judge.address).root) for store in (straight, cut)]
    tables = [pq.read_table(folder.rows.path) for folder in folders]
    assert tables[0].equals(tables[1])
    extent = extent_of(judge.suite)
    assert folders[0].summary(extent) == folders[1].summary(extent) != {}


def test_each_shard_draws_its_own_batches(grid: Grid, tmp_path: Path) -> None:
    draw, _ = base_jobs(grid)
    store, drawn = Store(tmp_path), set[str]()
    for part in shards(draw):
        run([part], store)
        images = set(content(store.artefact(draw.address).root))
        assert len(images - drawn) in (2, 3)  # batches of two, of seven images
        drawn = images


def test_long_jobs_are_cut_and_short_ones_are_not(grid: Grid) -> None:
    draw, judge = base_jobs(grid)
    cut = sharded([draw, judge], {draw.key: 900.0, judge.key: 20.0}, shard_seconds=300.0)
    assert [job.key[1] for job in cut[draw.key]] == ["draw 1/3", "draw 2/3", "draw 3/3"]
    assert cut[judge.key] == [judge]
    # A shard without a batch would only wait for a worker.
    assert len(sharded([draw], {draw.key: 9e9}, shard_seconds=1.0)[draw.key]) == draw.num_batches


def test_a_cell_is_not_finished_while_another_launch_left_its_shards_a_gap(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller part of the suite ends in between, and later shards count other images."""
    monkeypatch.setattr(judging, "CHUNK", 4)

    def parts(images_per_prompt: int) -> tuple[list[Draw], list[Judge], Log, Store]:
        words = ["tracking=none", "method=sft", "budget.max_prompts=null"]
        grid = expand([*overrides, *words, f"budget.images_per_prompt={images_per_prompt}"])
        own = [job for job in grid_jobs(grid.cells, diagnostics=False) if job.cell.training is None]
        draws = [job for job in own if isinstance(job, Draw)]
        judges = [job for job in own if isinstance(job, Judge)]
        (log,) = (job for job in own if isinstance(job, Log))
        return draws, judges, log, grid.store

    few, smaller, _, store = parts(1)
    many, (first, *others), log, _ = parts(2)
    run([*few, *many], store)
    shard, *later = shards(first)
    run([shard, next(job for job in smaller if job.key == first.key), *later, *others], store)
    assert not first.is_done(store)
    log.record(store).describe(log.description)
    with pytest.raises(Damaged, match="lacks scores of") as damage:
        run([log], store)
    assert damage.value.address == first.address
    assert not log.is_finished(store)
    run_repaired(log, lambda job: run([job], store))
    assert log.is_finished(store)
    scores = ScoresFolder(store.artefact(first.address).root).part(extent_of(first.suite))
    assert scores.num_rows == num_images(first.suite)
