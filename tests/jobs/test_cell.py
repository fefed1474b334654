"""The stages of a cell: what they leave behind, and how they go on after an interruption."""

from __future__ import annotations

import io
import itertools
import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from soarbench.common.progress import GridProgress
from soarbench.config.settings import CellConfig
from soarbench.evaluation.protocol import merge_parts, planned_images
from soarbench.grid.expand import expand
from soarbench.jobs.cell import run_cell
from soarbench.store.cell_folder import CellFolder, TrainingLog, read_training_log
from soarbench.tracking.tracker import NoTracker
from tests.fakes import FakeBench


@pytest.fixture
def cell(overrides: list[str]) -> CellConfig:
    found = {cell.label: cell for cell in expand(overrides).cells}
    return found["sft aesthetic seed 0"]


def run(cell: CellConfig, root: Path, bench: FakeBench) -> CellFolder:
    folder = CellFolder(root / cell.cell_id)
    progress = GridProgress(Console(file=io.StringIO()), {})
    run_cell(cell, folder, bench=bench, tracker=NoTracker(), progress=progress)
    return folder


def test_a_finished_cell_has_exactly_the_planned_rows(cell: CellConfig, tmp_path: Path) -> None:
    folder = run(cell, tmp_path, FakeBench())
    rows = pq.read_table(folder.scores_table).to_pylist()
    assert len(rows) == 2 * 3 * 2  # steps x prompts x (aesthetic, oracle_aesthetic); one image each
    assert {row["step"] for row in rows} == {3, 6}
    assert {row["evaluator"] for row in rows} == {"aesthetic", "oracle_aesthetic"}
    assert all(row["cell_id"] == cell.cell_id and row["method"] == "sft" for row in rows)
    assert all(math.isfinite(row["value"]) and row["reason"] is None for row in rows)
    assert len({row["sample_id"] for row in rows}) == 3
    config = json.loads(folder.config_path.read_text())
    assert config["final_metric"] == "aesthetic"
    assert config["oracle_metrics"] == ["oracle_aesthetic"]
    assert config["steps"] == [3, 6]
    status = json.loads(folder.status_path.read_text())
    assert status["state"] == "finished"
    assert status["budget"]["optimizer_steps"] == 6
    training = pq.read_table(folder.training_table).to_pylist()
    assert {"step": 4, "key": "images_seen", "value": 128.0} in training
    assert not list(folder.root.glob("checkpoint-*"))
    assert not list(folder.root.rglob("*.partial"))
    with Image.open(folder.sheet(6)) as sheet:
        assert sheet.width > 100


def test_a_second_run_loads_and_scores_nothing(cell: CellConfig, tmp_path: Path) -> None:
    run(cell, tmp_path, FakeBench())
    bench = FakeBench()
    run(cell, tmp_path, bench)
    assert bench.calls == []
    assert bench.judge.num_scored == 0


def test_only_missing_images_are_drawn_again_and_in_their_batch(
    cell: CellConfig, tmp_path: Path
) -> None:
    folder = run(cell, tmp_path, FakeBench())
    (suite,) = cell.suites.values()
    images = [folder.image(6, item.prompt_id, index) for item, index in planned_images(suite)]
    before = [path.read_bytes() for path in images]
    folder.scores_table.unlink()
    images[1].unlink()
    stamps = [path.stat().st_mtime_ns if path.is_file() else 0 for path in images]
    bench = FakeBench()
    run(cell, tmp_path, bench)
    assert bench.calls == ["load sft aesthetic seed 0 step 6"]
    assert [path.read_bytes() for path in images] == before
    # Batches of two: the missing image's companion is drawn with it, the third is left alone.
    assert images[0].stat().st_mtime_ns != stamps[0]
    assert images[2].stat().st_mtime_ns == stamps[2]


def test_only_missing_scores_are_made_again(cell: CellConfig, tmp_path: Path) -> None:
    folder = run(cell, tmp_path, FakeBench())
    before = pq.read_table(folder.scores_table)
    folder.scores_table.unlink()
    folder.part(6, "lab_drawbench", "aesthetic").unlink()
    bench = FakeBench()
    run(cell, tmp_path, bench)
    assert bench.judge.num_scored == 3
    assert pq.read_table(folder.scores_table).equals(before)


def test_a_failed_measurement_is_nan_with_its_reason(cell: CellConfig, tmp_path: Path) -> None:
    bench = FakeBench()
    (suite,) = cell.suites.values()
    item, index = planned_images(suite)[1]
    bench.judge.unreadable = f"{item.prompt_id}/{index:04d}"
    folder = run(cell, tmp_path, bench)
    failed = [row for row in pq.read_table(folder.scores_table).to_pylist() if row["reason"]]
    assert len(failed) == 4  # two steps, two judges
    assert all(math.isnan(row["value"]) and row["reason"] == "too dark" for row in failed)
    summary = json.loads(folder.summary(6, "lab_drawbench", "aesthetic").read_text())
    assert summary["aggregate"]["unscored"] == 1


def test_an_incomplete_set_of_scores_is_not_merged(cell: CellConfig, tmp_path: Path) -> None:
    folder = run(cell, tmp_path, FakeBench())
    part = folder.part(6, "lab_drawbench", "aesthetic")
    pq.write_table(pq.read_table(part).slice(0, 2), part)
    with pytest.raises(RuntimeError, match="11 score rows where 12 are planned"):
        merge_parts(cell, folder)


def test_a_torn_line_of_the_training_log_is_passed_over(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path)
    with TrainingLog(folder) as log:
        log.append(1, {"train/loss": 3.0})
        log.append(2, {"train/loss": 2.0})
    with folder.training_log.open("a") as stream:
        stream.write('{"step": 3, "val')
    with TrainingLog(folder) as log:
        log.append(2, {"train/loss": 2.5})
    assert read_training_log(folder) == {(1, "train/loss"): 3.0, (2, "train/loss"): 2.5}


def test_a_subset_of_prompts_is_evenly_spaced(cell: CellConfig) -> None:
    (suite,) = cell.suites.values()
    numbers = [int(item.prompt_id.rpartition("/")[2]) for item, _ in planned_images(suite)]
    gaps = [after - before for before, after in itertools.pairwise(numbers)]
    assert len(numbers) == 3
    assert max(gaps) - min(gaps) <= 1
