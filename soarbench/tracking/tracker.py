"""Logs finished cells from their files; this package alone knows MLflow.

Nothing is logged while a cell works. Logging reads what the cell stored and is idempotent: the
cell's run is found again by its tags, metrics carry time stamps that do not change, and MLflow
keeps equal points once. A cell killed while logging is therefore simply logged again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import mlflow
import pyarrow.parquet as pq
from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from soarbench.common.errors import UserError
from soarbench.common.provenance import git_commit
from soarbench.config.run import TrackingConfig
from soarbench.store.cells import Cell
from soarbench.tracking import views
from soarbench.tracking.store import opening, sqlite_file

RunState = Literal["FINISHED", "FAILED", "KILLED"]
#: What MLflow's stores take in one request, and in one value: it crashes on a longer parameter
#: (mlflow#1976, mlflow#6183).
_METRICS_PER_BATCH, _PARAMS_PER_BATCH, _LONGEST_PARAM, _LONGEST_TAG = 1000, 100, 500, 5000
#: A cell's numbers as a table that the page shows, and the files of a report that it can show.
_SUMMARY, _SHOWN = "summary.csv", (".md", ".csv", ".png", ".html")


class Tracker:
    """Keeps a launch and its cells."""

    def start_launch(self, name: str, tags: Mapping[str, str]) -> None:
        """Begin a parent run, shown under a name.

        The tag ``folder`` tells whose runs these are; ``command`` is shown as their source.
        """

    def log_cell(self, cell: Cell) -> str | None:
        """Log a finished cell from its files; its run id."""

    def mark_failed(self, cell: Cell, reason: str) -> str | None:
        """Record that a cell failed, and why; its run id."""

    def log_diagnostics(self, cell: Cell) -> None:
        """Add to a finished cell's run what was measured of it; nothing where it has no run."""

    def end_launch(self, state: RunState) -> None:
        """End the parent run."""

    def log_report(self, folder: Path) -> None:
        """Keep a report's tables and pictures with this launch; nothing where none was started."""


class NoTracker(Tracker):
    """Keeps nothing: ``tracking=none``."""


def store_uri(config: TrackingConfig, output_dir: Path) -> str:
    """Where MLflow keeps runs."""
    # Absolute: MLflow stores the paths of artifacts, and is read from other folders.
    return config.uri or f"sqlite:///{output_dir.resolve() / 'mlruns.db'}"


def artifact_root(config: TrackingConfig, output_dir: Path) -> str | None:
    """Where artifacts of new experiments go; None leaves it to the server."""
    if config.artifacts is not None or config.uri is not None:
        return config.artifacts
    return (output_dir.resolve() / "mlartifacts").as_uri()


def ui_command(config: TrackingConfig, output_dir: Path, port: int) -> list[str]:
    """The command that shows the store in a browser; ``UserError`` where there is none yet."""
    # MLflow would make an empty store, and its page would look as if results were lost.
    if config.uri is None and not (output_dir / "mlruns.db").is_file():
        raise UserError(
            f"output_dir={output_dir}: nothing was logged there yet; "
            "run 'python -m soarbench run grid=reward_specific' first"
        )
    uri = store_uri(config, output_dir)
    words = ("-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port))
    return [sys.executable, *words]


def ui_views(config: TrackingConfig, output_dir: Path, port: int) -> dict[str, str]:
    """Pages worth opening first and their addresses; ``UserError`` for an unusable store."""
    uri = store_uri(config, output_dir)
    with _named(uri):
        experiments = MlflowClient(tracking_uri=uri).search_experiments()
    return {
        f"{experiment.name}: {about}": f"http://127.0.0.1:{port}/{path}"
        for experiment in experiments
        # A server may hold other people's experiments, which have no such views.
        if "mlflow.experimentKind" in experiment.tags
        for about, path in views.view_links(experiment.experiment_id).items()
    }


@contextlib.contextmanager
def _named(uri: str) -> Iterator[None]:
    """Turn MLflow's errors about the store, and those of the libraries below it, into one line."""
    try:
        yield
    # MLflow wraps no error of its migrations: they came as 90 lines of Alembic's or SQLAlchemy's.
    except (MlflowException, SQLAlchemyError, CommandError) as error:
        reason = str(error).splitlines()[0]
        file = sqlite_file(uri)
        if file is None:
            text = f"tracking.uri={uri} cannot be used ({reason}); check the address"
        else:
            text = (
                f"{file}: cannot be used for tracking ({reason}); unless another process holds it "
                "it is broken: move it away, and the next run makes a new one (no result is lost)"
            )
        raise UserError(f"{text}, or set tracking=none") from error


class MlflowTracker(Tracker):
    """An experiment a grid, a parent run a launch, a child run a cell; ``UserError`` if refused."""

    def __init__(self, config: TrackingConfig, output_dir: Path, experiment: str) -> None:
        # At their usual level they say a line for each of the 68 migrations of a new store.
        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._uri = store_uri(config, output_dir)
        root = artifact_root(config, output_dir)
        with _named(self._uri), opening(self._uri, root):
            self._client = MlflowClient(tracking_uri=self._uri)
            stored = self._client.get_experiment_by_name(experiment)
            make = self._client.create_experiment
            self._experiment = make(experiment, root) if stored is None else stored.experiment_id
            # Inside the lock: two runs that set the same tag at once broke its uniqueness.
            for key, value in views.experiment_tags(experiment, self._experiment).items():
                self._client.set_experiment_tag(self._experiment, key, value)
        self._parent: str | None = None
        self._common: dict[str, str] = {}

    def start_launch(self, name: str, tags: Mapping[str, str]) -> None:
        """See ``Tracker``."""
        commit = git_commit()
        self._common = {"folder": tags["folder"], "git_commit": commit}
        self._common |= views.source_tags(tags.get("command", "soarbench"), commit)
        with _named(self._uri):
            # A grid's folder is locked while it runs, so a launch that still runs was killed.
            for run in self._find({"folder": tags["folder"], "kind": "launch"}):
                if run.info.status == "RUNNING":
                    self._client.set_terminated(run.info.run_id, "KILLED")
            all_tags = {**tags, **self._common, "kind": "launch", "version": mlflow.__version__}
            run = self._client.create_run(self._experiment, tags=_tags(all_tags), run_name=name)
        self._parent = run.info.run_id

    def end_launch(self, state: RunState) -> None:
        """See ``Tracker``."""
        if self._parent is not None:
            self._client.set_terminated(self._parent, state)

    def log_cell(self, cell: Cell) -> str:
        """See ``Tracker``."""
        with _named(self._uri):
            run_id = self._cell_run(cell)
            scores = list(views.score_values(cell))
            self._log_values(run_id, cell, [*_training_values(cell), *scores])
            params = [Param(key, value) for key, value in short_params(cell).items()]
            for start in range(0, len(params), _PARAMS_PER_BATCH):
                self._client.log_batch(run_id, params=params[start : start + _PARAMS_PER_BATCH])
            fingerprints = sorted({part.fingerprint for part in cell.scores()})
            self._client.set_tag(run_id, "fingerprint", ",".join(fingerprints)[:_LONGEST_TAG])
            self._client.set_tag(run_id, "mlflow.note.content", views.cell_note(cell))
            # Of an earlier launch, in which the cell failed.
            if "reason" in self._client.get_run(run_id).data.tags:
                self._client.delete_tag(run_id, "reason")
            self._client.log_text(run_id, views.summary_csv(scores), _SUMMARY)
            self._log_artifacts(run_id, cell)
            # Last: a run that was killed while it was logged does not look finished.
            self._client.set_terminated(run_id, "FINISHED")
            return run_id

    def _log_artifacts(self, run_id: str, cell: Cell) -> None:
        self._client.log_dict(run_id, dict(cell.description), "cell.json")
        tables = {"scores": cell.tables.scores(), "training": cell.tables.training()}
        with tempfile.TemporaryDirectory() as name:
            for stem, table in tables.items():
                if table is not None:
                    path = Path(name, f"{stem}.parquet")
                    pq.write_table(table, path)
                    self._client.log_artifact(run_id, str(path))
        for step in cell.steps:
            sheet = views.sample_sheet(cell, step)
            self._client.log_image(run_id, sheet, f"sheets/step-{step:06d}.png")

    def _log_values(self, run_id: str, cell: Cell, values: Sequence[views.Value]) -> None:
        # Of the first touch: MLflow keeps equal points once, however often they are logged.
        stamp = int(1000 * cell.created_at)
        metrics = [Metric(v.key, v.value, stamp + v.step, v.step) for v in values]
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])

    def log_diagnostics(self, cell: Cell) -> None:
        """See ``Tracker``."""
        if cell.mlflow_run_id is None:
            return
        values = list(views.diagnostic_values(cell))
        with _named(self._uri):
            self._log_values(cell.mlflow_run_id, cell, values)
            table = views.summary_csv([*views.score_values(cell), *values])
            self._client.log_text(cell.mlflow_run_id, table, _SUMMARY)

    def log_report(self, folder: Path) -> None:
        """See ``Tracker``."""
        if self._parent is None:
            return
        with _named(self._uri):
            for path in sorted(folder.iterdir()):
                if path.suffix in _SHOWN:
                    self._client.log_artifact(self._parent, str(path), "report")

    def mark_failed(self, cell: Cell, reason: str) -> str:
        """See ``Tracker``."""
        with _named(self._uri):
            run_id = self._cell_run(cell)
            self._client.set_tag(run_id, "reason", reason[:_LONGEST_TAG])
            self._client.log_dict(run_id, dict(cell.description), "cell.json")
            self._client.set_terminated(run_id, "FAILED")
        return run_id

    def _find(self, tags: Mapping[str, str]) -> Sequence[Run]:
        # A folder may have a quote in its name, which would end the text.
        quoted = {key: value.replace("'", "''") for key, value in tags.items()}
        text = " and ".join(f"tags.{key} = '{value}'" for key, value in quoted.items())
        runs: Sequence[Run] = self._client.search_runs([self._experiment], filter_string=text)
        return runs

    def _cell_run(self, cell: Cell) -> str:
        """The cell's run, found or made."""
        assert self._parent is not None, "a launch must be started first"
        tags = {
            **self._common, "kind": "cell", "method": cell.method, "task": cell.task,
            "seed": str(cell.seed), "cell_id": cell.cell_id, "mlflow.parentRunId": self._parent,
            # MLflow's page opens the launches whose children have this type, and so shows charts
            # without a click.
            "mlflow.runType": "evaluation",
        }  # fmt: skip
        # By folder, too: the same cell of another run directory was trained by somebody else.
        runs = self._find({"cell_id": cell.cell_id, "folder": self._common["folder"]})
        run_id: str
        if runs:
            run_id = runs[0].info.run_id
            self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in _tags(tags).items()])
        else:
            name, start = cell.label, int(1000 * cell.created_at)
            run = self._client.create_run(self._experiment, start, _tags(tags), name)
            run_id = run.info.run_id
        return run_id


def open_tracker(config: TrackingConfig, output_dir: Path, experiment: str) -> Tracker:
    """The configured tracker."""
    return MlflowTracker(config, output_dir, experiment) if config.enabled else NoTracker()


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


def _training_values(cell: Cell) -> Iterator[views.Value]:
    """Curves of training; what has no name space is a cost and gets ``budget/``."""
    table = cell.tables.training()
    for row in [] if table is None else table.to_pylist():
        key = row["key"] if "/" in row["key"] else f"budget/{row['key']}"
        # MLflow's database knows neither: nan becomes a marked 0, and infinity 1.8e308.
        if math.isfinite(row["value"]):
            yield views.Value(key, row["step"], row["value"])
