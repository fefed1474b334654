"""MLflow: the layout of runs, and logging twice as logging once."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from soarbench.cli.run import run_whole
from soarbench.cli.ui import UiOptions, _serve, ui
from soarbench.common.errors import UserError
from soarbench.common.files import write_json
from soarbench.config.run import TrackingConfig
from soarbench.grid.description import cell_record, describe
from soarbench.grid.expand import expand
from soarbench.store.cells import Cell, stored_cell
from soarbench.store.machine import sampling
from soarbench.store.tables import StoredTables
from soarbench.store.training import TrainingFolder
from soarbench.tracking.runs import MlflowRuns, short_params
from soarbench.tracking.store import artifact_root, store_uri
from soarbench.tracking.tracker import Delivery
from soarbench.tracking.ui import ui_command, ui_views
from tests.fakes import SMALL, FakeWorkbench

CONFIG = TrackingConfig(enabled=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output directory whose store exists; making one takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("runs")
    MlflowRuns(CONFIG, folder / "grids" / "warm-up")
    return folder


def tracker_at(store: Path, folder: Path, register: str | None = None) -> Delivery:
    """The tracker of a grid's folder that logs to another's store."""
    uri, artifacts = store_uri(CONFIG, store), artifact_root(CONFIG, store)
    config = TrackingConfig(enabled=True, uri=uri, artifacts=artifacts, register=register)
    return Delivery(config, folder, pytest.fail)


@dataclass(frozen=True)
class Finished:
    """A finished cell, and what it is called."""

    label: str
    cell: Cell


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """SOAR's cell of a grid that was run without MLflow."""
    root = tmp_path_factory.mktemp("done")
    (root / "model").mkdir()
    (root / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    words = [
        "grid=reward_specific", f"model.path={root / 'model'}", f"output_dir={root / 'run'}",
        f"results_dir={root / 'results'}", *SMALL, "task=aesthetic", "method=soar",
        "tracking=none", "diagnostics=true",
    ]  # fmt: skip
    grid, bench = expand(words), FakeWorkbench()
    quiet = Console(file=io.StringIO())
    assert run_whole(grid, console=quiet, make_workbench=lambda grid: bench.at(grid.store)) == 0
    (cell,) = [cell for cell in grid.cells if cell.method_name == "soar"]
    description = describe(cell, grid.cells)
    record = cell_record(grid.store, description)
    return Finished(cell.label, stored_cell(grid.store, description, record))


@pytest.mark.slow
def test_a_cell_is_a_child_run_with_curves_tags_params_and_artifacts(
    done: Finished, store: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    cell = done.cell
    with sampling(training_of(cell).machine_path, gpu=None):
        pass
    tracker = tracker_at(store, tmp_path / "grids" / "layout", register="mine")
    command = "python -m soarbench run grid=layout"
    tracker.start_launch("quick", {"command": command})
    run_id = tracker.log_cell(cell, "digest")
    assert tracker.log_cell(cell, "digest") == run_id
    assert run_id is not None
    tracker.end_launch("FINISHED")
    for _ in range(2):
        tracker.settle()

    client = MlflowClient(tracking_uri=store_uri(CONFIG, store))
    experiment = client.get_experiment_by_name("layout")
    assert experiment is not None
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 2
    child = runs.pop(run_id)
    (parent,) = runs.values()
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.status == parent.info.status == "FINISHED"
    wanted = {"method": "soar", "task": "aesthetic", "seed": "0", "cell_id": cell.cell_id}
    assert wanted.items() <= child.data.tags.items()
    assert child.data.tags["git_commit"]
    assert child.data.tags["fingerprint"]
    assert child.data.tags["mlflow.source.name"] == "python -m soarbench run grid=layout"
    assert "**soar** on task **aesthetic**" in child.data.tags["mlflow.note.content"]
    assert child.info.start_time == int(1000 * cell.created_at)
    assert child.data.params["method.aux_weight"] == "1.0"
    assert all(len(value) <= 500 for value in child.data.params.values())
    loss = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in loss] == [(s, 1.0 / s) for s in range(1, 7)]
    scores = client.get_metric_history(run_id, "eval/aesthetic/mean")
    assert [point.step for point in scores] == [3, 6]
    assert len(client.get_metric_history(run_id, "oracle/aesthetic/mean")) == 2
    assert client.get_metric_history(run_id, "spent/images_seen")
    (busy,) = client.get_metric_history(run_id, "system/system_memory_usage_megabytes")
    assert busy.value > 10
    assert child.data.tags["configuration"].startswith("soar aesthetic, 6 updates (")
    names = {item.path for item in client.list_artifacts(run_id)}
    assert {"cell.json", "scores.parquet", "training.parquet", "images", "summary.csv"} <= names
    assert Path(store / "mlartifacts").is_dir()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "`layout`" in experiment.tags["mlflow.note.content"]
    workflow, links = "workflowType=machine_learning", ui_views(CONFIG, store, 5001)
    place = f"http://127.0.0.1:5001/#/experiments/{experiment.experiment_id}/runs"
    assert [link for about, link in links.items() if about.startswith("layout: ")] == [
        f"{place}?{workflow}&viewStateShareKey=methods&compareRunsMode=CHART",
        f"{place}?{workflow}&viewStateShareKey=samples&compareRunsMode=CHART",
        f"{place}?{workflow}&viewStateShareKey=cells",
        f"{place.removesuffix('runs')}models?{workflow}",
    ]
    assert_checkpoints(cell, run_id, experiment.experiment_id, store_uri(CONFIG, store))
    for key in ("methods", "samples", "cells"):
        assert json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])


def training_of(cell: Cell) -> TrainingFolder:
    assert isinstance(cell.tables, StoredTables)
    return TrainingFolder(cell.tables.store.artefact(cell.description["training"]).root)


def assert_checkpoints(cell: Cell, run_id: str, experiment: str, uri: str) -> None:
    """One a step, found by its score, with the dataset of that and its weights' address."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    models = {int(m.tags["step"]): m for m in client.search_logged_models([experiment])}
    assert sorted(models) == [3, 6]
    assert {str(model.status) for model in models.values()} == {"READY"}
    folder = training_of(cell).root.parents[1]
    for step, model in models.items():
        assert (folder / model.tags["weights"] / "weights").is_file()
        assert model.params["method.aux_weight"] == "1.0"
        names = {(one.key, one.dataset_name) for one in model.metrics or ()}
        assert {("aesthetic", "lab_drawbench"), ("eval/aesthetic/mean", "lab_drawbench")} <= names
        (value,) = {one.value for one in model.metrics or () if one.key == "aesthetic"}
        history = client.get_metric_history(run_id, "eval/aesthetic/mean")
        assert [point.value for point in history if point.step == step] == [value]
    (version,) = client.search_model_versions("name = 'mine-aesthetic'")
    best_version = client.get_model_version_by_alias("mine-aesthetic", "best")
    assert (best_version.version, best_version.run_id) == (version.version, run_id)
    assert version.tags["weights"] == models[6].tags["weights"]
    run = client.get_run(run_id)
    assert {one.model_id for one in run.outputs.model_outputs} == {
        model.model_id for model in models.values()
    }
    best = run.data.metrics["final/aesthetic"]
    good = client.search_logged_models([experiment], f"metrics.aesthetic > {best - 1e-6}")
    assert models[6].model_id in {model.model_id for model in good}
    assert not client.search_logged_models([experiment], "metrics.aesthetic > 300")
    contexts = {
        one.dataset.name: (one.tags[0].value, one.dataset.digest)
        for one in run.inputs.dataset_inputs
    }
    assert contexts["aesthetic training data"] == ("training", cell.data_key.rpartition("-")[2])
    prompts = str(cell.protocols()["lab_drawbench", "aesthetic"]["prompts"])
    assert contexts["lab_drawbench"] == ("evaluation", f"{prompts[:16]}-3")


@pytest.mark.slow
def test_diagnostics_and_the_report_are_added_to_runs_that_exist(
    done: Finished, store: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    cell = done.cell
    tracker = tracker_at(store, tmp_path / "grids" / "added")
    tracker.start_launch("quick", {})
    run_id = tracker.log_cell(cell, "digest")
    assert run_id is not None
    for _ in range(2):
        tracker.log_diagnostics(cell, "digest")
    assert (
        tracker.known()[cell.cell_id].items() >= {"logged": "digest", "diagnosed": "digest"}.items()
    )
    report = tmp_path / "report"
    report.mkdir()
    for name in ("table.md", "curves.png", "curves.pdf"):
        (report / name).touch()
    head = "task,method,metric,baseline,difference,difference_low,difference_high"
    rows = ["aesthetic,soar,aesthetic,sft,0.5,0.2,0.8", "aesthetic,sft,aesthetic,,,,"]
    (report / "table.csv").write_text("\n".join([head, *rows]))
    finding = "SOAR is better than SFT"
    write_json(report / "summary.json", {"tasks": [{"task": "aesthetic", "findings": [finding]}]})
    tracker.log_report(report)
    tracker.end_launch("FINISHED")

    client = MlflowClient(tracking_uri=store_uri(CONFIG, store))
    history = client.get_metric_history(run_id, "signs/velocity_norm")
    assert [(point.step, point.value) for point in history] == [(3, 1.5), (6, 1.5)]
    ends = client.get_metric_history(run_id, "signs/off_path_at_0.50")
    assert [(point.step, point.value) for point in ends] == [(6, 0.05)]
    table = client.download_artifacts(run_id, "summary.csv", str(tmp_path))
    head, *rows = Path(table).read_text().splitlines()
    columns = head.split(",")
    assert columns[:2] == ["step", "eval/aesthetic/mean"]
    assert columns[-1] == "signs/velocity_norm"
    assert [row.split(",")[0] for row in rows] == ["3", "6"]
    parent = client.get_run(run_id).data.tags["mlflow.parentRunId"]
    kept = {item.path for item in client.list_artifacts(parent, "report")}
    assert kept == {"report/table.md", "report/curves.png", "report/table.csv"}
    launch = client.get_run(parent).data
    name = "difference/aesthetic/aesthetic/soar-sft"
    assert launch.metrics == {name: 0.5, f"{name}/low": 0.2, f"{name}/high": 0.8}
    assert f"aesthetic: {finding}" in launch.tags["mlflow.note.content"]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.slow
def test_a_copied_or_moved_folder_has_its_pictures_and_leaves_the_original_alone(
    done: Finished, store: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service import utils

    first, second, third = (tmp_path / name for name in ("it's first", "second", "third"))
    cell, root = done.cell, training_of(done.cell).root.parents[1]
    shutil.copytree(root, first)
    # Itself a copy, since making one takes seconds.
    shutil.copy(store / "mlruns.db", first)
    grid = Path("grids", str(cell.description["grid"]))
    run_id = Delivery(CONFIG, first / grid, pytest.fail).log_cell(cell, "digest")
    shutil.copytree(first, second)
    # Of a run MLflow remembers the place as long as its process lasts.
    utils._artifact_repos_cache.clear()
    before = contents(first)
    copied = Delivery(CONFIG, second / grid, pytest.fail)
    assert copied.known()[cell.cell_id]["logged"] == "digest"
    assert copied.log_cell(cell, "other") == run_id
    assert contents(first) == before
    second.rename(third)
    utils._artifact_repos_cache.clear()
    ui_views(CONFIG, third, 5000)
    client = MlflowClient(tracking_uri=store_uri(CONFIG, third))
    run = client.get_run(run_id)
    assert run.data.tags["folder"] == str(third / grid)
    assert run.info.artifact_uri.startswith((third / "mlartifacts").as_uri())
    pictures = client.list_artifacts(run_id, "images")
    assert len(pictures) == 8
    assert Path(client.download_artifacts(run_id, pictures[0].path)).is_file()
    models = client.search_logged_models([run.info.experiment_id])
    assert all(model.artifact_location.startswith(third.as_uri()) for model in models)
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.artifact_location == (third / "mlartifacts").as_uri()


@pytest.mark.slow
def test_logging_again_duplicates_nothing_and_a_failure_is_overwritten(
    done: Finished, store: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    cell = done.cell
    folder = tmp_path / "grids" / "again"
    first = tracker_at(store, folder)
    first.start_launch("killed while logging", {})
    failed = first.mark_failed(cell, "out of memory")
    client = MlflowClient(tracking_uri=store_uri(CONFIG, store))
    run = client.get_run(failed)
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "out of memory")

    second = tracker_at(store, folder)
    second.start_launch("quick", {})
    assert "logged" not in second.known()[cell.cell_id]
    assert second.log_cell(cell, "digest") == second.log_cell(cell, "digest") == failed
    second.end_launch("FINISHED")
    assert len(client.get_metric_history(failed, "train/loss")) == 6
    assert len(client.get_metric_history(failed, "eval/aesthetic/mean")) == 2
    assert len(client.list_artifacts(failed, "images")) == 2 * len(cell.steps)
    run = client.get_run(failed)
    assert run.info.status == "FINISHED"
    assert "reason" not in run.data.tags
    experiment = client.get_experiment_by_name("again")
    assert experiment is not None
    # Measured anew: later points, and checkpoints in the place of those before.
    assert second.log_cell(cell, "other") == failed
    models = client.search_logged_models([experiment.experiment_id])
    assert [model.tags["telling"] for model in models] == ["other", "other"]
    points = client.get_metric_history(failed, "eval/aesthetic/mean")
    assert len({point.timestamp for point in points}) == 4
    states = {
        run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])
    }
    assert states == {
        "killed while logging": "KILLED",
        "quick": "FINISHED",
        done.label: "FINISHED",
    }


@pytest.mark.slow
def test_the_same_cell_of_another_folder_is_another_run(
    done: Finished, store: Path, tmp_path: Path
) -> None:
    run_ids = set()
    for name in ("one", "two"):
        tracker = tracker_at(store, tmp_path / name / "grids" / "folders")
        tracker.start_launch(name, {})
        run_ids.add(tracker.log_cell(done.cell, "digest"))
        tracker.end_launch("FINISHED")
    assert len(run_ids) == 2


def test_params_are_short_text(done: Finished) -> None:
    params = short_params(done.cell)
    assert params["optim.learning_rate"] == "0.0003"
    assert params["model.name"] == "lab"
    assert "lora.rank" not in params
    assert all(isinstance(value, str) and len(value) <= 500 for value in params.values())


def test_the_ui_opens_the_store_of_the_output_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was logged there yet"):
        ui_command(CONFIG, tmp_path, 5000)
    (tmp_path / "mlruns.db").touch()
    command = ui_command(CONFIG, tmp_path, 5001)
    assert command[1:4] == ["-m", "mlflow", "ui"]
    assert f"sqlite:///{tmp_path / 'mlruns.db'}" in command
    assert command[-4:-2] == ["--port", "5001"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = [f"output_dir={tmp_path}"]
        with pytest.raises(UserError, match=rf"^port={port}: another program .* e\.g\. port=\d+$"):
            ui(UiOptions(port=port), words, console=Console())
    stream, words = io.StringIO(), ["tracking.uri=http://127.0.0.1:1"]
    with pytest.raises(UserError, match="MLflow at http://127"):
        ui(UiOptions(port=port), words, console=Console(file=stream))


def test_the_page_ends_with_all_its_processes(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "import pathlib, subprocess; child = subprocess.Popen(['sleep', '60']); "
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid)); child.wait()"
    )

    def stop() -> None:
        while not (note.is_file() and note.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert _serve([sys.executable, "-c", code], os.environ) == 0
    child, patience = int(note.read_text()), time.monotonic() + 30

    def is_alive() -> bool:
        states = [one.status() for one in psutil.process_iter() if one.pid == child]
        return states not in ([], [psutil.STATUS_ZOMBIE])

    while is_alive():
        assert time.monotonic() < patience
        time.sleep(0.02)
