"""MLflow's runs of a grid, made from stored files; this package alone knows MLflow.

Nothing is logged while a cell works. Logging reads what the cell stored and is idempotent: the
cell's run is found again by its tags, metrics carry time stamps that do not change, and MLflow
keeps equal points once. A cell killed while logging is therefore simply logged again.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec

import mlflow
import pyarrow.parquet as pq
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

from soarbench.common.errors import NotDelivered, reason
from soarbench.common.provenance import UNKNOWN
from soarbench.config.run import TrackingConfig
from soarbench.store.cells import Cell
from soarbench.store.machine import read_samples
from soarbench.store.tables import StoredTables
from soarbench.store.training import TrainingFolder
from soarbench.tracking import views
from soarbench.tracking.configuration import configuration
from soarbench.tracking.datasets import dataset_inputs
from soarbench.tracking.launch import Launch
from soarbench.tracking.models import Checkpoints, found_models
from soarbench.tracking.registry import register_best
from soarbench.tracking.reports import difference_metrics, launch_note
from soarbench.tracking.store import delivering, opened, store_uri

P = ParamSpec("P")
#: What MLflow's stores take in one request, and in one value: it crashes on a longer parameter
#: (mlflow#1976, mlflow#6183).
_METRICS_PER_BATCH, _PARAMS_PER_BATCH, _LONGEST_PARAM, _LONGEST_TAG = 1000, 100, 500, 5000
#: A cell's numbers as a table that the page shows, and the files of a report that it can show.
_SUMMARY, _SHOWN = "summary.csv", (".md", ".csv", ".png", ".html")
#: Of a training: every 10 s a day would be 8640.
_MOST_SAMPLES = 500


class MlflowRuns:
    """An experiment a grid, a parent run a launch, a child run a cell.

    Every method raises ``NotDelivered`` where MLflow does not take something, and may be called
    again.

    Args:
        config: Where MLflow is.
        folder: Of the grid: ``OUTPUT_DIR/grids/NAME``.

    Raises:
        UserError: See ``store.opening``.
    """

    def __init__(self, config: TrackingConfig, folder: Path) -> None:
        self._folder, output_dir = str(folder.resolve()), folder.parents[1]
        self._uri = store_uri(config, output_dir)
        with opened(config, output_dir) as root:
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            self._experiment = self._experiment_of(folder.name, root)
        self._launch_runs: dict[str, str] = {}

    def _experiment_of(self, grid: str, root: str | None) -> str:
        stored = self._client.get_experiment_by_name(grid)
        if stored is None:
            try:
                self._client.create_experiment(grid, root)
            except MlflowException as error:
                # Of a server, which nobody holds, another process may have made it just now.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            stored = self._client.get_experiment_by_name(grid)
        assert stored is not None
        experiment: str = stored.experiment_id
        for key, value in views.experiment_tags(grid, experiment).items():
            if stored.tags.get(key) != value:
                self._client.set_experiment_tag(experiment, key, value)
        return experiment

    def log_launch(self, launch: Launch, before: Launch | None = None) -> None:
        """Bring a launch's run to the state that the launch is in, with its report.

        ``before`` is the launch before it, whose end may not have been delivered.
        """
        with delivering(self._uri):
            run = self._client.get_run(self._launch_run(launch, before))
            if launch.report is not None and "report" not in run.data.tags:
                self._log_report(run.info.run_id, launch, Path(launch.report))
            if run.info.status != launch.state:
                end = None if launch.ended_at is None else int(1000 * launch.ended_at)
                self._client.set_terminated(run.info.run_id, launch.state, end)

    def _log_report(self, run_id: str, launch: Launch, folder: Path) -> None:
        # Reports can be made again, and so may have been deleted, or moved away.
        if not folder.is_dir():
            self._client.set_tag(run_id, "report", f"{folder} is gone")
            return
        stamp = int(1000 * launch.started_at)
        self._log_metrics(run_id, list(difference_metrics(folder, stamp)))
        note = launch_note(launch, folder)[:_LONGEST_TAG]
        self._client.set_tag(run_id, "mlflow.note.content", note)
        for path in sorted(folder.iterdir()):
            if path.suffix in _SHOWN:
                self._upload(self._client.log_artifact, run_id, str(path), "report")
        self._client.set_tag(run_id, "report", "logged")

    def register(self, name: str) -> None:
        """Register the best checkpoint of each task; see ``registry``."""
        folder = self._folder.replace("'", "''")
        with delivering(self._uri):
            models = found_models(self._client, self._experiment, f"tags.folder = '{folder}'")
            register_best(self._client, name, models)

    def _log_inputs(self, run_id: str, cell: Cell) -> None:
        inputs = dataset_inputs(cell)
        try:
            self._client.log_inputs(run_id, inputs)
        except MlflowException as error:
            if "unique constraint" not in str(error).lower():
                raise
            # Another process wrote the same data set between MLflow's look and its row: seen once
            # where eight stores were delivered at once. Now it is there.
            self._client.log_inputs(run_id, inputs)

    def log_cell(self, cell: Cell, digest: str, launch: Launch) -> str:
        """Log a finished cell from its files; its run id."""
        values, final = list(views.score_values(cell)), list(views.final_values(cell))
        summary = views.summary_csv([*values, *views.diagnostic_values(cell)])
        fingerprints = sorted({part.fingerprint for part in cell.scores()})
        note = views.cell_note(cell)
        with delivering(self._uri):
            run_id = self._cell_run(cell, launch)
            stored = self._client.get_run(run_id).data
            stamp = self._stamp(run_id, cell, digest, stored.tags)
            # Scores first: the page's charts come in this order.
            self._log_metrics(run_id, [_metric(v, stamp) for v in [*values, *final]])
            self._log_metrics(run_id, [_metric(v, stamp) for v in _training_values(cell)])
            self._log_metrics(run_id, system_metrics(cell))
            self._log_params(run_id, cell, stored.params)
            self._log_inputs(run_id, cell)
            checkpoints = self._checkpoints(run_id, cell, digest)
            self._log_metrics(run_id, checkpoints.log(cell, short_params(cell), stamp))
            checkpoints.finish()
            self._client.set_tag(run_id, "fingerprint", ",".join(fingerprints)[:_LONGEST_TAG])
            self._client.set_tag(run_id, "mlflow.note.content", note)
            # Of an earlier launch, in which the cell failed.
            if "reason" in stored.tags:
                self._client.delete_tag(run_id, "reason")
            self._upload(self._client.log_text, run_id, summary, _SUMMARY)
            self._log_artifacts(run_id, cell)
            self._log_sheets(run_id, cell, stamp, stored.tags)
            # Last: a run that was killed while it was logged does not look finished.
            self._client.set_tag(run_id, "logged", digest)
            self._client.set_terminated(run_id, "FINISHED")
            return run_id

    def _stamp(self, run_id: str, cell: Cell, digest: str, stored: Mapping[str, str]) -> int:
        """Milliseconds of a telling's first metric: MLflow keeps equal points once."""
        # Of the first touch. Of two values of a step MLflow shows the later one, and the larger of
        # two that are as late: what is measured anew has to be later.
        is_first = stored.get("telling") in (None, digest)
        first = stored.get("stamp") or int(1000 * cell.created_at)
        stamp = int(first) if is_first else int(1000 * time.time())
        tags = [RunTag("telling", digest), RunTag("stamp", str(stamp))]
        self._client.log_batch(run_id, tags=tags)
        return stamp

    def _checkpoints(self, run_id: str, cell: Cell, digest: str) -> Checkpoints:
        tags = {**self._names(cell), "configuration": configuration(cell)}
        return Checkpoints(
            client=self._client, experiment=self._experiment, run_id=run_id, tags=tags,
            digest=digest,
        )  # fmt: skip

    def _names(self, cell: Cell) -> dict[str, str]:
        """Tags that find a cell's run and checkpoints again."""
        # By folder, too: the same cell of another run directory was trained by somebody else.
        return {
            "folder": self._folder, "cell_id": cell.cell_id, "method": cell.method,
            "task": cell.task, "seed": str(cell.seed),
        }  # fmt: skip

    def _log_params(self, run_id: str, cell: Cell, stored: Mapping[str, str]) -> None:
        # MLflow changes no parameter: a cell that is logged again with another batch size keeps
        # the first, which its artifact ``cell.json`` corrects.
        params = [Param(k, v) for k, v in short_params(cell).items() if k not in stored]
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=params[start : start + _PARAMS_PER_BATCH])

    def _upload(self, upload: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            upload(*args, **kwargs)
        except (MlflowException, requests.RequestException):
            raise
        # The clients of artifact stores (of S3, Azure, Google, a disk that is full) have nothing
        # in common but that they raise.
        except Exception as error:
            raise NotDelivered(f"artifacts of MLflow: {reason(error)}") from error

    def _log_artifacts(self, run_id: str, cell: Cell) -> None:
        self._upload(self._client.log_dict, run_id, dict(cell.description), "cell.json")
        tables = {"scores": cell.tables.scores(), "training": cell.tables.training()}
        with tempfile.TemporaryDirectory() as name:
            for stem, table in tables.items():
                if table is not None:
                    path = Path(name, f"{stem}.parquet")
                    pq.write_table(table, path)
                    self._upload(self._client.log_artifact, run_id, str(path))

    def _log_sheets(self, run_id: str, cell: Cell, stamp: int, stored: Mapping[str, str]) -> None:
        """Samples of every step under one key, which the page shows with a slider."""
        # A picture's name has a random part, so that twice logged it would be there twice.
        names = [item.path for item in self._client.list_artifacts(run_id, "images")]
        for step in cell.steps:
            start = f"images/{views.SHEETS}+step+{step}+timestamp+{stamp + step}+"
            pair = [name for name in names if name.startswith(start)]
            if len(pair) < 2 or MLFLOW_LOGGED_IMAGES not in stored:
                sheet = views.sample_sheet(cell, step)
                self._upload(
                    self._client.log_image, run_id, sheet, key=views.SHEETS, step=step,
                    timestamp=stamp + step,
                )  # fmt: skip

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])

    def log_diagnostics(self, cell: Cell, digest: str, launch: Launch) -> None:
        """Add to a cell's run what was measured of it."""
        values = list(views.diagnostic_values(cell))
        table = views.summary_csv([*views.score_values(cell), *values])
        with delivering(self._uri):
            run_id = self._cell_run(cell, launch)
            stamp = self._stamp(run_id, cell, digest, self._client.get_run(run_id).data.tags)
            self._log_metrics(run_id, [_metric(v, stamp) for v in values])
            self._upload(self._client.log_text, run_id, table, _SUMMARY)
            self._client.set_tag(run_id, "diagnosed", digest)

    def log_failure(self, cell: Cell, reason: str, launch: Launch) -> str:
        """Record that a cell failed, and why; its run id."""
        with delivering(self._uri):
            run_id = self._cell_run(cell, launch)
            self._upload(self._client.log_dict, run_id, dict(cell.description), "cell.json")
            self._client.set_tag(run_id, "reason", reason[:_LONGEST_TAG])
            self._client.set_terminated(run_id, "FAILED")
        return run_id

    def known(self) -> dict[str, dict[str, str]]:
        """Tags of this folder's cells by id; see ``Tracker.known``."""
        known: dict[str, dict[str, str]] = {}
        with delivering(self._uri):
            for run in self._find({"folder": self._folder, "kind": "cell"}):
                tags = dict(run.data.tags)
                # Of a run that was begun again, and not brought to its end.
                if run.info.status != "FINISHED":
                    tags.pop("logged", None)
                cell_id = tags["cell_id"]
                # Twice there: it is logged again, and one run is removed.
                known[cell_id] = {} if cell_id in known else tags
        return known

    def _find(self, tags: Mapping[str, str]) -> list[Run]:
        """All runs with these tags."""
        # A folder may have a quote in its name, which would end the text.
        quoted = {key: value.replace("'", "''") for key, value in tags.items()}
        text = " and ".join(f"tags.{key} = '{value}'" for key, value in quoted.items())
        page = self._client.search_runs([self._experiment], text)
        runs: list[Run] = list(page)
        while page.token:
            page = self._client.search_runs([self._experiment], text, page_token=page.token)
            runs += page
        return runs

    def _launch_run(self, launch: Launch, before: Launch | None = None) -> str:
        """The launch's run, found or made."""
        run_id = self._launch_runs.get(launch.launch_id)
        if run_id is None:
            run_id = self._only(self._find({"launch": launch.launch_id, "kind": "launch"}))
        if run_id is None:
            self._end_others(before)
            tags = {
                **launch.tags, **_source(launch), "folder": self._folder, "kind": "launch",
                "launch": launch.launch_id, "version": mlflow.__version__,
                "mlflow.note.content": launch_note(launch, None),
            }  # fmt: skip
            start = int(1000 * launch.started_at)
            run = self._client.create_run(self._experiment, start, _tags(tags), launch.name)
            run_id = run.info.run_id
        self._launch_runs[launch.launch_id] = run_id
        return run_id

    def _end_others(self, before: Launch | None) -> None:
        # A grid's folder is locked while it runs, so a launch that still runs was killed, or could
        # not say how it ended.
        for run in self._find({"folder": self._folder, "kind": "launch"}):
            if run.info.status == "RUNNING":
                is_before = before is not None and run.data.tags.get("launch") == before.launch_id
                state = before.state if before is not None and is_before else "KILLED"
                self._client.set_terminated(run.info.run_id, state)

    def _cell_run(self, cell: Cell, launch: Launch) -> str:
        """The cell's run, found or made."""
        tags = {
            **_source(launch), **self._names(cell), "kind": "cell",
            "configuration": configuration(cell),
            "mlflow.parentRunId": self._launch_run(launch),
            # MLflow's page opens the launches whose children have this type, and so shows charts
            # without a click.
            "mlflow.runType": "evaluation",
        }  # fmt: skip
        runs = self._find({"cell_id": cell.cell_id, "folder": self._folder})
        run_id = self._only(runs, cell.mlflow_run_id)
        if run_id is None:
            name, start = cell.label, int(1000 * cell.created_at)
            run = self._client.create_run(self._experiment, start, _tags(tags), name)
            return str(run.info.run_id)
        self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in _tags(tags).items()])
        return run_id

    def _only(self, runs: Sequence[Run], preferred: str | None = None) -> str | None:
        """The one run there should be; None where there is none."""
        run_ids = sorted((run.info.run_id for run in runs), key=lambda one: (one != preferred, one))
        # A request whose answer is lost is sent again, and a run is made twice.
        for extra in run_ids[1:]:
            self._client.delete_run(extra)
        return run_ids[0] if run_ids else None


def _source(launch: Launch) -> dict[str, str]:
    """What tells of the code behind a run: the command and the commit."""
    commit = launch.tags.get("git_commit", UNKNOWN)
    command = launch.tags.get("command", "soarbench")
    return {"git_commit": commit, **views.source_tags(command, commit)}


def _metric(value: views.Value, stamp: int) -> Metric:
    return Metric(value.key, value.value, stamp + value.step, value.step)


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:_LONGEST_TAG] for key, value in tags.items()}


def short_params(cell: Cell) -> dict[str, str]:
    """The settings worth a column, each short; the whole configuration is an artifact."""
    params: dict[str, str] = {}

    def add(prefix: str, values: object) -> None:
        if isinstance(values, Mapping):
            for key, value in values.items():
                add(f"{prefix}.{key}", value)
        elif values is not None:
            params[prefix] = str(values)[:_LONGEST_PARAM]

    for name in ("method", "optim", "lora", "ema", "training", "data", "sampling", "model"):
        add(name, cell.config.get(name))
    add("reward", cell.config.get("rewards"))
    return params


def system_metrics(cell: Cell) -> list[Metric]:
    """How busy the machine was, for MLflow's tab of system metrics; long trainings are thinned."""
    assert isinstance(cell.tables, StoredTables), "an export is not logged"
    origin, store = cell.description["training"], cell.tables.store
    if origin is None:
        return []
    samples = read_samples(TrainingFolder(store.artefact(origin).root).machine_path)
    kept = samples[:: -(-len(samples) // _MOST_SAMPLES) or 1]
    return [
        Metric(f"system/{key}", value, int(1000 * one.time), step)
        for step, one in enumerate(kept)
        for key, value in one.values.items()
    ]


def _training_values(cell: Cell) -> Iterator[views.Value]:
    """Curves of training; what has no name space is a cost and gets ``spent/``."""
    table = cell.tables.training()
    for row in [] if table is None else table.to_pylist():
        key = row["key"] if "/" in row["key"] else f"spent/{row['key']}"
        # MLflow's database knows neither: nan becomes a marked 0, and infinity 1.8e308.
        if math.isfinite(row["value"]):
            yield views.Value(key, row["step"], row["value"])
