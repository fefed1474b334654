"""MLflow's page: the command that serves it, and what is worth opening there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mlflow import MlflowClient

from soarbench.common.errors import UserError, without_passwords
from soarbench.config.run import TrackingConfig
from soarbench.tracking import views
from soarbench.tracking.store import opened, store_uri


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
    # Four workers would each import MLflow, for one reader.
    return [sys.executable, *words, "--workers", "1"]


def ui_environment() -> dict[str, str]:
    """Variables of the process that serves the page."""
    # Its job runners, a dozen processes, are for chat models.
    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def served_by(config: TrackingConfig) -> str | None:
    """The address of a server, which has a page of its own; None where there is no server."""
    is_server = config.uri is not None and config.uri.startswith(("http://", "https://"))
    return config.uri if is_server else None


def ui_views(config: TrackingConfig, output_dir: Path, port: int) -> dict[str, str]:
    """Pages worth opening first and their addresses; ``UserError`` for an unusable store."""
    uri = store_uri(config, output_dir)
    page = f"http://127.0.0.1:{port}" if served_by(config) is None else without_passwords(uri)
    with opened(config, output_dir):
        experiments = MlflowClient(tracking_uri=uri).search_experiments()
    return {
        f"{experiment.name}: {about}": f"{page.rstrip('/')}/{path}"
        for experiment in experiments
        # A server may hold other people's experiments, which have no such views.
        if "mlflow.experimentKind" in experiment.tags
        for about, path in views.view_links(experiment.experiment_id).items()
    }
