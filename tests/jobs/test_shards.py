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

from soarbench.common.progress import GridProgress
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import Context, Shard, SuiteJob, extent_of
from soarbench.jobs.draw import Draw
from soarbench.jobs.graph import grid_jobs, sharded
from soarbench.jobs.judge import Judge
from soarbench.store.artefact import Store
from soarbench.store.judged import ScoresFolder
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


def run(jobs: Sequence[SuiteJob], store: Store) -> None:
    for job in jobs:
        progress = GridProgress(Console(file=io.StringIO()), {})
        bench = FakeWorkbench().at(store)
        job.run(Context(store=store, workbench=bench, tracker=None, progress=progress))


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
