"""The jobs of a cell: what they leave behind, what runs again, and what shares what."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from baselines.loop.checkpoints import MANIFEST, checkpoint_path
from soarbench.cli.dry_run import job_list
from soarbench.cli.run import run, run_whole
from soarbench.common.errors import UserError
from soarbench.common.progress import GridProgress
from soarbench.evaluation.drawing import image_path
from soarbench.evaluation.rows import ScoreRows
from soarbench.evaluation.selection import suite_images
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import cell_record, describe
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import Context, Job
from soarbench.jobs.graph import cell_jobs, grid_jobs
from soarbench.launchers.local import run_jobs
from soarbench.store.artefact import Artefact, Store
from soarbench.store.cells import stored_cell
from soarbench.store.judged import ScoresFolder
from soarbench.store.training import TrainingFolder, TrainingLog, read_training_log
from soarbench.tracking.tracker import NoTracker
from tests.fakes import FakeWorkbench


@pytest.fixture
def grid(overrides: list[str]) -> Grid:
    return expand([*overrides, "tracking=none", "task=aesthetic"])


def cell_of(grid: Grid, label: str = "sft aesthetic seed 0") -> CellConfig:
    return {cell.label: cell for cell in grid.cells}[label]


def context_of(grid: Grid, bench: FakeWorkbench) -> Context:
    return Context(
        store=grid.store,
        workbench=bench.at(grid.store),
        tracker=NoTracker(),
        progress=GridProgress(Console(file=io.StringIO()), {}),
    )


def run_cell(cell: CellConfig, grid: Grid, bench: FakeWorkbench) -> list[Job]:
    jobs, context = cell_jobs(cell, grid.cells), context_of(grid, bench)
    description = describe(cell, grid.cells)
    cell_record(grid.store, description).describe(description)
    for _, error in run_jobs([job for job in jobs if not job.is_done(grid.store)], context):
        if error is not None:
            raise error
    return jobs


def go(arguments: Sequence[str], bench: FakeWorkbench | None = None) -> tuple[list[str], str]:
    """Run a grid to its end; what the workbench was asked, and what was printed."""
    bench, stream = bench or FakeWorkbench(), io.StringIO()
    code = run_whole(
        expand(arguments),
        console=Console(file=stream, width=160),
        make_workbench=lambda grid: bench.at(grid.store),
    )
    assert code == 0, stream.getvalue()
    return [call for call in bench.calls if not call.startswith("prepare")], stream.getvalue()


def kinds(arguments: Sequence[str]) -> list[str]:
    """Kinds of the jobs that a dry run would do."""
    return [str(job["kind"]) for job in job_list(expand(arguments)) if job["state"] != "done"]


def of_kind(jobs: Sequence[Job], kind: str) -> list[Job]:
    return [job for job in jobs if job.kind == kind]


def test_a_finished_cell_has_exactly_the_planned_rows(grid: Grid) -> None:
    cell = cell_of(grid)
    jobs = run_cell(cell, grid, FakeWorkbench())
    description = describe(cell, grid.cells)
    stored = stored_cell(grid.store, description, cell_record(grid.store, description))
    rows = stored.tables.scores().to_pylist()
    assert len(rows) == 2 * 3 * 2  # steps x prompts x (aesthetic, oracle_aesthetic); one image each
    assert {row["step"] for row in rows} == {3, 6}
    assert {row["evaluator"] for row in rows} == {"aesthetic", "oracle_aesthetic"}
    assert all(math.isfinite(row["value"]) and row["reason"] is None for row in rows)
    assert len({row["sample_id"] for row in rows}) == 3
    assert stored.final_metric == "oracle_aesthetic"
    assert stored.description["oracle_metrics"] == ["oracle_aesthetic"]
    assert stored.steps == (3, 6)
    assert stored.state == "finished"
    assert stored.budget["optimizer_steps"] == 6
    training = stored.tables.training()
    assert training is not None
    assert {"step": 4, "key": "images_seen", "value": 128.0} in training.to_pylist()
    (train,) = of_kind(jobs, "train")
    assert not list(grid.store.artefact(train.address).root.glob("checkpoint-*"))
    assert not list(grid.store.root.rglob("*.partial*"))
    assert stored.launches
    assert stored.code


def test_a_second_run_loads_and_scores_nothing(grid: Grid) -> None:
    run_cell(cell_of(grid), grid, FakeWorkbench())
    bench = FakeWorkbench()
    run_cell(cell_of(grid), grid, bench)
    assert bench.calls == []
    assert bench.judge.num_scored == 0


def forget(store: Store, job: Job) -> Path:
    """Make an artefact one that was interrupted; its folder."""
    path = store.artefact(job.address).root / "artefact.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extents": []}))
    return path.parent


def test_an_interrupted_drawing_repeats_its_batch_and_writes_what_is_missing(grid: Grid) -> None:
    cell = cell_of(grid)
    jobs = run_cell(cell, grid, FakeWorkbench())
    (suite,) = cell.suites.values()
    root = forget(grid.store, of_kind(jobs, "draw")[1])
    images = [image_path(root, item.prompt_id, index) for item, index in suite_images(suite)]
    before = [path.read_bytes() for path in images]
    images[1].unlink()
    stamps = [path.stat().st_mtime_ns for path in (images[0], images[2])]
    bench = FakeWorkbench()
    run_cell(cell, grid, bench)
    assert bench.calls == ["load sft aesthetic seed 0 step 6"]
    assert [path.read_bytes() for path in images] == before
    assert [path.stat().st_mtime_ns for path in (images[0], images[2])] == stamps


def test_only_missing_scores_are_made_again(grid: Grid) -> None:
    jobs = run_cell(cell_of(grid), grid, FakeWorkbench())
    rows = ScoreRows(forget(grid.store, of_kind(jobs, "judge")[2]))
    before = pq.read_table(rows.path)
    first, *rest = before.to_pylist()
    rows.path.unlink()
    rows.append([first])
    rows.finish([])
    rows.append(rest)
    (part,) = rows.partial_dir.iterdir()
    part.write_text(json.dumps(rest)[:-9])  # what a power cut may leave
    bench = FakeWorkbench()
    run_cell(cell_of(grid), grid, bench)
    assert bench.judge.num_scored == 2
    assert pq.read_table(rows.path).equals(before)
    assert not rows.partial_dir.exists()


def test_an_estimate_counts_whole_checkpoints_and_leaves_half_written_ones(grid: Grid) -> None:
    (train,) = of_kind(cell_jobs(cell_of(grid), grid.cells), "train")
    rates = replace(grid.settings.budget.rates, seconds_per_step={"sft": 1.0})
    root = grid.store.artefact(train.address).root
    for step in (2, 4):
        checkpoint_path(root, step).mkdir(parents=True)
    (checkpoint_path(root, 2) / MANIFEST).touch()
    assert train.seconds(grid.store, rates) == 6 - 2
    assert checkpoint_path(root, 4).is_dir()


def test_a_failed_measurement_is_nan_with_its_reason(grid: Grid) -> None:
    cell, bench = cell_of(grid), FakeWorkbench()
    (suite,) = cell.suites.values()
    item, index = suite_images(suite)[1]
    bench.judge.unreadable = f"{item.prompt_id}/{index:04d}"
    jobs = run_cell(cell, grid, bench)
    for job in of_kind(jobs, "judge"):
        folder = ScoresFolder(grid.store.artefact(job.address).root)
        (failed,) = [row for row in folder.rows.read() if row["reason"]]
        assert math.isnan(float(str(failed["value"])))
        assert failed["reason"] == "too dark"
        record = grid.store.artefact(job.address).record()
        assert record is not None
        assert folder.summary(record.extents[0])["unscored"] == 1


def test_a_torn_line_of_the_training_log_is_passed_over(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    with TrainingLog(folder) as log:
        log.append(1, {"train/loss": 3.0})
        log.append(2, {"train/loss": 2.0})
    with folder.log_path.open("a") as stream:
        stream.write('{"step": 3, "val')
    with TrainingLog(folder) as log:
        log.append(2, {"train/loss": 2.5})
    assert read_training_log(folder) == {(1, "train/loss"): 3.0, (2, "train/loss"): 2.5}


def test_a_subset_of_prompts_is_evenly_spaced(grid: Grid) -> None:
    (suite,) = cell_of(grid).suites.values()
    numbers = [int(item.prompt_id.rpartition("/")[2]) for item, _ in suite_images(suite)]
    gaps = [after - before for before, after in itertools.pairwise(numbers)]
    assert len(numbers) == 3
    assert max(gaps) - min(gaps) <= 1


def test_a_job_can_be_sent_to_another_process(grid: Grid) -> None:
    for job in grid_jobs(grid.cells, diagnostics=True):
        sent = pickle.loads(pickle.dumps(job))  # noqa: S301
        assert sent.key == job.key
        assert sent.waits_for == job.waits_for


# What follows a finished run: only what is new runs, and nothing trains.

NOTHING_NEW = [
    ["sampling.batch_size=3"],
    ["training.micro_batch_size=1"],
    ["training.gradient_checkpointing=true"],
    ["training.save_steps=6"],
    ["task.description=other words"],
    ["launcher.num_processes=2", "training.micro_batch_size=1"],
]


@pytest.fixture
def arguments(overrides: list[str]) -> list[str]:
    return [*overrides, "tracking=none", "task=aesthetic", "method=sft"]


@pytest.mark.parametrize("words", NOTHING_NEW, ids=lambda words: words[0])
def test_what_changes_no_number_runs_nothing(arguments: list[str], words: list[str]) -> None:
    go(arguments)
    assert kinds([*arguments, *words]) == []
    calls, _ = go([*arguments, *words])
    assert calls == []


def test_one_more_judge_judges_alone(arguments: list[str]) -> None:
    go(arguments)
    more = [*arguments, "suites.drawbench.judges=[aesthetic,oracle_aesthetic,clipscore]"]
    assert set(kinds(more)) == {"judge", "log", "log diagnostics"}
    bench = FakeWorkbench()
    calls, text = go(more, bench)
    assert calls == []
    assert bench.judge.num_scored == 3 * (1 + 2)  # prompts x (base, two steps)
    assert "CLIPScore" in text


def test_more_images_a_prompt_draw_and_judge_those_alone(arguments: list[str]) -> None:
    go(arguments)
    grid = expand(arguments)
    root = grid.store.artefact(
        of_kind(cell_jobs(grid.cells[0], grid.cells), "draw")[0].address
    ).root
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    more = [*arguments, "budget.images_per_prompt=2"]
    assert "train" not in kinds(more)
    bench = FakeWorkbench()
    calls, _ = go(more, bench)
    assert all(call.startswith(("load", "probe")) for call in calls)
    assert not any(call.startswith("probe") for call in calls)
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    assert len(after) == 2 * len(before)
    assert {path: after[path] for path in before} == before
    # New images x judges, of two steps and of the base, which has the suites of both tasks.
    assert bench.judge.num_scored == 3 * 2 * (2 + 2)
    # And the smaller report is still what it was.
    assert go(arguments)[0] == []


def test_a_lost_image_comes_back_in_the_batch_that_it_was_drawn_in(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    go([*arguments, "sampling.batch_size=2"])
    more = [*arguments, "sampling.batch_size=2", "budget.images_per_prompt=2"]
    grid, drawn = expand(more), list[int]()
    job = of_kind(cell_jobs(grid.cells[0], grid.cells), "draw")[0]
    root = grid.store.artefact(job.address).root
    lost, drawer = sorted(root.rglob("0000.png"))[0], FakeWorkbench.drawer
    before = lost.read_bytes()
    lost.unlink()

    def counting(*place: object) -> object:
        draw = drawer(*place)
        return lambda batch: drawn.append(len(batch)) or draw(batch)

    monkeypatch.setattr(FakeWorkbench, "drawer", counting)
    job.run(context_of(grid, FakeWorkbench()))
    # The first part's batch of two once more, then its three prompts' second images.
    assert drawn == [2, 2, 1]
    assert lost.read_bytes() == before


def test_images_share_the_batch_that_they_would_after_the_grid_that_was_waited_for(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*arguments, "sampling.batch_size=2"]
    first, second = expand(words), expand([*words, "budget.images_per_prompt=2"])
    jobs = [of_kind(cell_jobs(grid.cells[0], grid.cells), "draw")[0] for grid in (first, second)]
    drawn, drawer, held = list[list[int]](), FakeWorkbench.drawer, Artefact.held

    def counting(*place: object) -> object:
        draw = drawer(*place)
        return lambda batch: drawn.append([index for _, index in batch]) or draw(batch)

    @contextlib.contextmanager
    def held_by_the_first(artefact: Artefact, *_: object) -> Iterator[None]:
        monkeypatch.setattr(Artefact, "held", held)
        jobs[0].run(context_of(first, FakeWorkbench()))
        with artefact.held():
            yield

    monkeypatch.setattr(FakeWorkbench, "drawer", counting)
    monkeypatch.setattr(Artefact, "held", held_by_the_first)
    jobs[1].run(context_of(second, FakeWorkbench()))
    assert drawn == [[0, 0], [0], [1, 1], [1]]


def test_other_sampler_steps_draw_and_judge_and_train_nothing(arguments: list[str]) -> None:
    go(arguments)
    calls, _ = go([*arguments, "sampling.num_inference_steps=7"])
    assert calls
    assert not any(call.startswith("train") for call in calls)


def test_a_second_grid_shares_trainings_images_and_scores(overrides: list[str]) -> None:
    common = [*overrides[1:], "tracking=none", "task=aesthetic"]
    go(["grid=reward_specific", *common])
    bench = FakeWorkbench()
    calls, _ = go(["grid=soar_then_grpo", *common], bench)
    assert [call for call in calls if call.startswith("train")] == [
        "train sft_then_flow_grpo aesthetic seed 0",
        "train soar_then_flow_grpo aesthetic seed 0",
    ]
    assert not any(call.startswith("load base") for call in calls)


def test_dry_run_lists_every_job_as_json(arguments: list[str]) -> None:
    stream = io.StringIO()
    console = Console(file=stream)
    assert run(arguments, is_dry=True, as_json=True, console=console) == 0
    jobs = json.loads(stream.getvalue())
    assert {job["kind"] for job in jobs} == {
        *("train", "draw", "judge", "log"),
        *("statistics", "base states", "paths", "log diagnostics"),
    }
    for job in jobs:
        assert job.keys() == {"kind", "address", "cell", "state", "waits_for", "seconds"}
        assert job["state"] == "to do"
        assert job["seconds"] >= 0
    by_address = {job["address"]: job for job in jobs}
    (train,) = [job for job in jobs if job["kind"] == "train"]
    drawn = [job for job in jobs if train["address"] in job["waits_for"] and job["kind"] == "draw"]
    assert len(drawn) == 2
    for job in jobs:
        assert set(job["waits_for"]) <= by_address.keys()
    go(arguments)
    assert {job["state"] for job in job_list(expand(arguments))} == {"done"}


def other_code(grid: Grid) -> None:
    """Make a finished training one that other code of the method made."""
    (train,) = of_kind(grid_jobs(grid.cells, diagnostics=False), "train")
    path = grid.store.artefact(train.address).root / "artefact.json"
    values = json.loads(path.read_text())
    assert "baselines.sft" in values["code"]
    values["code"]["baselines.sft"] = "0123456789abcdef"
    path.write_text(json.dumps(values))


def test_results_of_other_code_are_said_and_rerun_or_refused(arguments: list[str]) -> None:
    go(arguments)
    other_code(expand(arguments))
    calls, text = go(arguments)
    assert calls == []
    assert "made by other code of baselines.sft" in text
    page = Path(expand(arguments).settings.results_dir) / "reward_specific"
    for name in ("index.html", "table.md"):
        assert "made by other code of baselines.sft" in (page / name).read_text()
    with pytest.raises(UserError, match=r"baselines\.sft.*stale=rerun"):
        go([*arguments, "stale=refuse"])
    calls, text = go([*arguments, "stale=rerun"])
    assert "train sft aesthetic seed 0" in calls
    assert "load sft aesthetic seed 0 step 6" in calls
    assert not any("base" in call for call in calls)
    assert "other code" not in go(arguments)[1]
